"""Redis streams as a source: what is read from a configuration, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.config import ConfigInvalid, loads
from runner.config.sources import RedisDelivery, RedisStreamsSourceConfig
from runner.config.streams import count_streams, expand_ranges
from runner.core.lanes import Ordering

URL = "redis://r:6379/0"
FUNCTIONS = "functions: {f: {python: {handler: a.b}}}\n"
SHORTHANDS = {
    "<redis>": f"source: {{redis_streams: {{url: '{URL}', streams: [orders, 'returns.{{0..3}}']",
    "<kafka>": "source: {kafka: {topics: [t], bootstrap_servers: 'k:1'}}",
    "<to redis>": "destination_config: {on_failure: {redis_streams: {stream: dead",
    "<dead>": "destination_config: {on_failure: {redis_streams: {stream: ",
}


def source(more: str, environ: dict[str, str] | None = None) -> RedisStreamsSourceConfig:
    """The source of a mapping ``m``, with ``more`` keys."""
    text = f"{FUNCTIONS}mappings: {{m: {{function: f, source: {{redis_streams: {{url: '{URL}', {more}}}}}}}}}\n"
    redis = loads(text, name="config.yaml", environ=environ or {}).mappings["m"].source.redis_streams
    assert redis is not None
    return redis


def test_the_defaults() -> None:
    assert source("streams: [orders]") == RedisStreamsSourceConfig(
        url=parse_redis_url(URL),
        streams=("orders",),
        group="m",
        delivery=RedisDelivery.ORDERED,
        key_field=None,
        value_field=None,
        lease=10.0,
        heartbeat=2.0,
        trim=False,
        username=None,
        password=None,
        allow_plaintext=False,
        tls=None,
    )


def test_what_is_written_is_taken() -> None:
    redis = source(
        "streams: [orders], group: billing, lease: 6s, key_field: größe, username: u, password: '${P}', "
        "allow_plaintext: true, trim: true, value_field: ''' '''",
        {"P": "p"},
    )
    assert (redis.group, redis.lease, redis.heartbeat) == ("billing", 6.0, 1.2)
    assert (redis.key_field, redis.value_field) == ("größe", "' '")
    assert redis.trim
    assert (redis.username, redis.password) == ("u", Secret(literal="p"))
    assert source("streams: [orders], lease: 5m, heartbeat: 80s").heartbeat == 80.0


@pytest.mark.parametrize(
    ("streams", "keys"),
    [
        ("orders", ("orders",)),
        ("[b, a]", ("b", "a")),
        ("'orders.{0..3}'", ("orders.0", "orders.1", "orders.2", "orders.3")),
        ("['{9..11}', other]", ("9", "10", "11", "other")),
        ("'{08..11}'", ("08", "09", "10", "11")),
        ("'{0..1}.{0..1}'", ("0.0", "0.1", "1.0", "1.1")),
        ("'{{7..8}}.x'", ("{7}.x", "{8}.x")),
        ("'a{3..2}{b}{1..x}{-1..1}{1...2}}'", ("a{3..2}{b}{1..x}{-1..1}{1...2}}",)),
        ("['größe', 'a b', '${NAME}', 'o.{0..${LAST}}']", ("größe", "a b", "x", "o.0", "o.1")),
    ],
)
def test_streams(streams: str, keys: tuple[str, ...]) -> None:
    assert source(f"streams: {streams}", {"NAME": "x", "LAST": "1"}).streams == keys


def test_as_many_streams_as_there_may_be() -> None:
    assert len(source("streams: ['a.{1..999}', b]").streams) == 1000
    assert len(source(f"streams: [{'x' * 512}]").streams[0]) == 512


def test_a_range_is_counted_without_being_expanded() -> None:
    assert count_streams("a") == len(expand_ranges("a")) == 1
    assert count_streams("{0..9}.{5..4}.{1..3}") == len(expand_ranges("{0..9}.{5..4}.{1..3}")) == 30
    assert count_streams("{0..999999}" * 40) == 10**240


@pytest.mark.parametrize(
    "keys",
    [
        "streams: «E104|name what to read»[]",
        "streams: «E104|several mappings»'{0..1000}'",
        "streams: «E104|several mappings»'{0..99999999999999999999}{0..99999999999999999999}'",
        "streams: «E104|several mappings»['a.{1..999}', b, c]",
        "streams: «E102»{}",
        "streams: [«E102|quotes»0]",
        "streams: «E102»null",
        "streams: [a, «E108|keep one»a]",
        "streams: ['a.{0..3}', «E108|keep one»a.2]",
        "streams: «E108|between»'{1..11}{1..11}'",
        "streams: [«E106»'']",
        f"streams: [«E104|shorten it»{'x' * 513}]",
        'streams: [«E106»"a\\nb"]',
        "streams: [a, '«E201»${NOWHERE}']",
        "streams: [a], lease: «E104»999ms",
        "streams: [a], lease: «E104»301s",
        "streams: [a], heartbeat: «E104»50ms",
        "streams: [a], delivery: «E105|shared»share",
        "streams: [a], trim: «E102»perhaps",
        "streams: [a], «E103|did you mean 'key_field'?»keyfield: a",
    ],
)
def test_a_key_that_is_wrong(judge: Callable[..., Any], keys: str) -> None:
    judge(f"{FUNCTIONS}mappings: {{m: {{function: f, source: {{redis_streams: {{url: '{URL}', {keys}}}}}}}}}").check()


@pytest.mark.parametrize(
    "mapping",
    [
        "<redis>}}",
        "<redis>}}, starting_position: latest",
        "<redis>}}, starting_position: at_timestamp, starting_position_timestamp: 1738310400",
        "<redis>}}, starting_position: «E319»at_timestamp",
        "<redis>, lease: 10s, heartbeat: 2666ms}}",
        "<redis>, lease: 10s, heartbeat: «E328|2666ms»2667ms}}",
        "<redis>, heartbeat: «E328|2666ms»4s}}",
        "<redis>, lease: 6s, heartbeat: 1600ms}}",
        "<redis>, lease: 6s, heartbeat: «E328|1600ms»2s}}",
        "<redis>, lease: «E104»1h, heartbeat: 4s}}",
        "<redis>}}, commit_timeout: 9s",
        "<redis>}}, commit_timeout: «E329|lower commit_timeout»10s",
        "<redis>, lease: «E329|lower commit_timeout»5s}}",
        "<redis>, lease: 5s}}, commit_timeout: 1s",
        "<redis>, key_field: k, value_field: v}}",
        "<redis>, key_field: k, value_field: «E330|another field»k}}",
        "<redis>, delivery: shared}}",
        "<redis>, delivery: shared}}, ordering: none, parallelization_factor: 4",
        "<redis>, delivery: shared}}, ordering: «E331|delivery: ordered»key",
        "<redis>, delivery: shared}}, ordering: «E331|ordering: none»partition, parallelization_factor: 4",
        "<redis>, delivery: «E105»unordered}}, ordering: key",
        "<redis>, delivery: shared, lease: «E329|lower commit_timeout»5s}}",
        "<redis>, «E326|rediss://r:6379»password: '${PASSWORD}'}}",
        "<redis>, password: '${PASSWORD}', «W409|rediss»allow_plaintext: true}}",
        "<redis>, «E327|remove tls»tls: {}}}",
        "source: {redis_streams: {url: 'rediss://r', streams: [a], tls: {«W403»insecure_skip_verify: true}}}",
        "source: {redis_streams: {url: 'rediss://r', streams: [a], password: '${PASSWORD}', tls: {}}}",
        "source: {redis_streams: {url: «E106|username and password»'redis://:hunter2@r', streams: [a]}}",
        "source: {«E101|add 'url'»redis_streams: {streams: [a]}}",
        "source: {redis_streams: {url: redis://r, streams: [a]}, «E107|keep one»file: {path: x}}",
        "<redis>}}, <to redis>}}}",
        "<redis>}}, <to redis>, maxlen: 10, timeout: 1s, marker_ttl: 1h}}}",
        "<redis>}}, <to redis>, «E325|remove username»username: u}}}",
        "<redis>}}, <to redis>, «E325|add url»password: '${PASSWORD}', «E325»allow_plaintext: true, «E325»tls: {}}}}",
        "<redis>}}, <to redis>, url: redis://r}}}",
        "<redis>}}, <to redis>, url: redis://r, «E326»password: '${PASSWORD}'}}}",
        "<redis>}}, <dead>«E304|another stream»orders}}}",
        "<redis>}}, <dead>«E304»returns.2}}}",
        "<redis>}}, <dead>«E304»orders, url: redis://R:6379}}}",
        "<redis>}}, <dead>orders, url: redis://r:6379/1}}}",
        "<redis>}}, <dead>orders, url: redis://r:6380}}}",
        "<redis>}}, <dead>«E304»orders, url: 'redis+cluster://other:6379,r:6379'}}}",
        "<redis>}}, <dead>orders, url: redis+sentinel://r:6379/master}}}",
        "<redis>}}, destination_config: {on_failure: {«E324|bootstrap»kafka: {topic: t}}}",
        "<redis>}}, destination_config: {on_failure: {kafka: {topic: t, bootstrap_servers: 'k:1'}}}",
        "<redis>}}, destination_config: {on_failure: {file: {path: d}}}",
        "source: {file: {path: x}}, destination_config: {on_failure: {«E324|add url»redis_streams: {stream: d}}}",
        "<kafka>, destination_config: {on_failure: {«E324|add url»redis_streams: {stream: d, tls: {}}}}",
    ],
)
def test_a_mapping(judge: Callable[..., Any], mapping: str) -> None:
    for shorthand, text in SHORTHANDS.items():
        mapping = mapping.replace(shorthand, text)
    judge(f"{FUNCTIONS}mappings: {{m: {{function: f, {mapping}}}}}\n", {"PASSWORD": "secret"}).check()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("url: redis://r, streams: [a]", "url: redis://r, streams: [a]"),
        ("url: redis://r, streams: [a], group: g", "url: redis://R:6379, streams: [a], group: «E302|of its own»g"),
        ("url: redis://r, streams: [a], group: g", "url: redis://r, streams: [b], group: «E302»g"),
        ("url: redis://r, streams: [a], group: g", "url: redis://r/1, streams: [a], group: g"),
        ("url: redis://r, streams: [a], group: g", "url: redis://q, streams: [a], group: g"),
        ("url: '<s>r,s/one', streams: [a], group: g", "url: '<s>s,t/one', streams: [a], group: «E302»g"),
        ("url: '<s>r/one', streams: [a], group: g", "url: '<s>r/two', streams: [a], group: g"),
        ("url: '<c>r,s', streams: [a], group: g", "url: '<c>s', streams: [a], group: «E302»g"),
    ],
)
def test_two_mappings(judge: Callable[..., Any], one: str, other: str) -> None:
    text = (
        f"{FUNCTIONS}mappings:\n"
        f"  m: {{function: f, source: {{redis_streams: {{{one}}}}}}}\n"
        f"  n: {{function: f, source: {{redis_streams: {{{other}}}}}}}\n"
    )
    judge(text.replace("<s>", "redis+sentinel://").replace("<c>", "redis+cluster://")).check()


@pytest.mark.parametrize(
    ("keys", "ordering"),
    [
        ("delivery: shared}}", Ordering.NONE),
        ("delivery: shared}}, parallelization_factor: 8", Ordering.NONE),
        ("delivery: ordered}}, parallelization_factor: 8", Ordering.KEY),
        ("delivery: ordered}}", Ordering.PARTITION),
    ],
)
def test_shared_streams_have_no_order(keys: str, ordering: Ordering) -> None:
    text = (
        f"{FUNCTIONS}mappings: {{m: {{function: f, source: {{redis_streams: {{url: '{URL}', streams: [a], {keys}}}}}\n"
    )
    assert loads(text, name="config.yaml", environ={}).mappings["m"].ordering is ordering


def test_a_kafka_group_and_a_redis_group_may_have_one_name(judge: Callable[..., Any]) -> None:
    judge(
        f"{FUNCTIONS}mappings:\n"
        "  m: {function: f, source: {redis_streams: {url: 'redis://h:1', streams: [a], group: g}}}\n"
        "  n: {function: f, source: {kafka: {bootstrap_servers: 'h:1', topics: [a], consumer_group_id: g}}}\n"
    ).check()


def test_a_group_that_is_another_mappings_name_is_shared(judge: Callable[..., Any]) -> None:
    judge(
        f"{FUNCTIONS}mappings:\n"
        "  m: {function: f, source: {redis_streams: {url: redis://r, streams: [a], group: n}}}\n"
        "  n: {function: f, source: {«E302»redis_streams: {url: redis://r, streams: [b]}}}\n"
    ).check()


def test_a_redis_url_with_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigInvalid) as raised:
        loads(
            f"{FUNCTIONS}mappings: {{m: {{function: f, source: {{redis_streams: "
            "{url: 'redis://:hunter2@r', streams: [a]}}}}",
            name="config.yaml",
            environ={},
        )
    assert [str(error.code) for error in raised.value.errors] == ["E106"]
    assert "hunter2" not in raised.value.render()


def test_equal_sources_are_equal() -> None:
    assert source("streams: ['o.{0..1}']") == source("streams: [o.0, o.1], heartbeat: 2s, lease: 10s, group: m")
    assert hash(source("streams: [a]")) == hash(source("streams: a"))
    assert source("streams: [a]") != source("streams: [b]")

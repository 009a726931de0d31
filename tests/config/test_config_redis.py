"""Redis as a destination: what its keys mean, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.clients.redis_url import Address, Finding, RedisUrl
from runner.clients.secret import Secret
from runner.config import loads
from runner.config.destinations import RedisStreamsDestinationConfig

TEXT = """\
functions: {{f: {{python: {{handler: a.b}}}}}}
mappings:
  m:
    function: f
    source: {{file: {{path: x}}}}
    destination_config: {{on_failure: {{redis_streams: {{{0}}}}}}}
"""


def read(keys: str) -> RedisStreamsDestinationConfig:
    config = loads(TEXT.format(keys), name="config.yaml", environ={"PASSWORD": "secret"})
    on_failure = config.mappings["m"].on_failure
    assert on_failure is not None
    assert on_failure.redis_streams is not None
    return on_failure.redis_streams


def test_what_is_not_written_has_its_default() -> None:
    config = read("url: 'redis://r', stream: dead")
    assert config.url == RedisUrl(
        finding=Finding.STANDALONE, addresses=(Address("r", 6379),), uses_tls=False, database=0
    )
    assert (config.stream, config.maxlen, config.username, config.password, config.tls) == ("dead", *[None] * 4)
    assert (config.timeout, config.marker_ttl, config.allow_plaintext) == (30.0, 86_400.0, False)


def test_what_is_written_is_read() -> None:
    config = read(
        "url: 'rediss+cluster://a:1,b:2', stream: 'a {b} c', maxlen: 10, username: u, password: '${PASSWORD}', "
        "tls: {}, timeout: 5s, marker_ttl: 7d"
    )
    assert config.url == RedisUrl(finding=Finding.CLUSTER, addresses=(Address("a", 1), Address("b", 2)), uses_tls=True)
    assert (config.stream, config.maxlen, config.username) == ("a {b} c", 10, "u")
    assert config.password == Secret(literal="secret")
    assert (config.timeout, config.marker_ttl) == (5.0, 7 * 86_400.0)


@pytest.mark.parametrize(
    "keys",
    [
        "url: 'redis://r/3', stream: d",
        "url: '${URL}', stream: d",
        "url: «E106|redis://host»'localhost:6379', stream: d",
        "url: «E106|redis://»'http://r', stream: d",
        "url: «E106|redis+sentinel»'redis://r,s', stream: d",
        "url: «E106|mymaster»'redis+sentinel://r', stream: d",
        "url: «E106|username and password»'redis://u:hunter2@r', stream: d",
        "url: «E106|host:port/database»'redis://r /0', stream: d",
        "url: «E106|host:port/database»5, stream: d",
        "url: 'redis://r', stream: «E106»''",
        "url: 'redis://r', stream: d, maxlen: «E104»0",
        "url: 'redis://r', stream: d, marker_ttl: «E104»1s",
        "url: 'redis://r', stream: d, «E326|rediss://r»password: '${PASSWORD}'",
        "url: 'redis://r', stream: d, password: '${PASSWORD}', «W409|rediss»allow_plaintext: true",
        "url: 'redis+cluster://r', stream: d, «E327|rediss+cluster://r»tls: {}",
        "url: 'rediss://r', stream: d, password: '${PASSWORD}'",
        "url: 'rediss://r', stream: d, «W405»password: p",
        "url: 'rediss://r', stream: d, tls: {«W403»insecure_skip_verify: true}",
        "url: 'rediss://r', stream: d, tls: {«E322»certificate_file: '${FILE}'}",
        "url: 'rediss://r', stream: d, «E103|did you mean 'maxlen'?»max_len: 5",
    ],
)
def test_a_destination(judge: Callable[..., Any], keys: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content", encoding="utf-8")
    judgement = judge(TEXT.format(keys), {"PASSWORD": "secret", "URL": "redis://r", "FILE": str(file)})
    judgement.check()
    assert "hunter2" not in "".join([each.render() for each in judgement.found])


def test_what_is_needed_is_asked_for(judge: Callable[..., Any]) -> None:
    judge(TEXT.replace("redis_streams", "«E101|add 'stream'»redis_streams").format("url: 'redis://r'")).check()
    judge(TEXT.replace("redis_streams", "«E324|add url»redis_streams").format("stream: d")).check()

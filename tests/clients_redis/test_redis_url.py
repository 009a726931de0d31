"""URLs of Redis: what they mean, and what is wrong with others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.clients.redis_url import Address, Finding, RedisUrl, parse_redis_url

VALID = {
    "redis://localhost": RedisUrl(finding=Finding.STANDALONE, addresses=(Address("localhost", 6379),), uses_tls=False),
    "rediss://r.example:7000/3": RedisUrl(
        finding=Finding.STANDALONE, addresses=(Address("r.example", 7000),), uses_tls=True, database=3
    ),
    "redis://[::1]:7000/": RedisUrl(finding=Finding.STANDALONE, addresses=(Address("::1", 7000),), uses_tls=False),
    "redis+sentinel://a,b:1/main/2": RedisUrl(
        finding=Finding.SENTINEL,
        addresses=(Address("a", 26379), Address("b", 1)),
        uses_tls=False,
        service="main",
        database=2,
    ),
    "rediss+sentinel://a/main": RedisUrl(
        finding=Finding.SENTINEL, addresses=(Address("a", 26379),), uses_tls=True, service="main"
    ),
    "redis+cluster://a:1,b": RedisUrl(
        finding=Finding.CLUSTER, addresses=(Address("a", 1), Address("b", 6379)), uses_tls=False
    ),
}

INVALID = {
    "": "redis://host",
    "localhost:6379": "redis://host",
    "http://localhost": "redis\\+cluster",
    "redis://user:secret@host": "username and password",
    "redis://:secret@host": "username and password",
    "redis://a,b": "redis\\+sentinel",
    "redis://": "host:port",
    "redis://a b": "host:port",
    "redis://a:0": "port",
    "redis://a:70000": "port",
    "redis://a/x": "database",
    "redis://a/0/1": "database",
    "redis://a/0?db=1": "query",
    "redis://a#x": "query|host",
    "redis+sentinel://a": "service",
    "redis+sentinel://a/": "service",
    "redis+sentinel://a/main/x": "database",
    "redis+cluster://a/0": "database",
    "redis+cluster://a,a": "twice",
    "redis+cluster://" + ",".join(f"h{number}" for number in range(30)): "more than",
}


@pytest.mark.parametrize(("text", "url"), VALID.items())
def test_a_url_says_how_redis_is_found(text: str, url: RedisUrl) -> None:
    assert parse_redis_url(text) == url
    assert parse_redis_url(str(url)) == url


@pytest.mark.parametrize(("text", "hint"), INVALID.items())
def test_what_is_wrong_is_said_with_what_to_do(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint) as refused:
        parse_redis_url(text)
    what, _, what_to_do = str(refused.value).partition(": ")
    assert what.startswith("must ")
    assert what_to_do
    assert "secret" not in str(refused.value)


@given(st.text())
def test_any_other_text_is_refused_or_understood(text: str) -> None:
    try:
        url = parse_redis_url(f"redis://{text}")
    except ValueError:
        return
    assert parse_redis_url(str(url)) == url

"""Slots are the server's, and companions lie in their stream's, whatever its name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_harness import client
from redis_harness.fixtures import NewRedisCluster
from redis_harness.flavour import Flavour
from runner.clients.redis_slots import SLOTS, companion_key, hash_tag, slot_of

WITH_BRACES = st.text("{}a1:", max_size=12).map(str.encode)
NAMES = st.one_of(st.binary(max_size=30), WITH_BRACES)
SUFFIXES = st.one_of(
    st.sampled_from([b":lease", b":lease:g", b"x", b"{", b"}"]), st.binary(min_size=1, max_size=9)
).filter(lambda suffix: not suffix[:1].isdigit())

KNOWN = {
    b"": 0,
    b"123456789": 12_739,
    b"foo": 12_182,
    b"{foo}.bar": 12_182,
    b"foo{}{bar}": 8_363,
    b"foo{{bar}}zap": 4_015,
}


@pytest.mark.parametrize(("key", "slot"), KNOWN.items())
def test_slots_are_those_of_the_cluster_specification(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@given(NAMES, SUFFIXES)
def test_a_companion_lies_in_the_slot_of_its_name(name: bytes, suffix: bytes) -> None:
    assert slot_of(companion_key(name, suffix)) == slot_of(name)


@given(NAMES, SUFFIXES, NAMES, SUFFIXES)
def test_no_two_names_or_suffixes_share_a_companion(one: bytes, end: bytes, other: bytes, other_end: bytes) -> None:
    same = (one, end) == (other, other_end)
    assert (companion_key(one, end) == companion_key(other, other_end)) is same


def test_forms_of_companions_are_told_apart_where_they_look_alike() -> None:
    for name in (b"}", b"", b"{}", b"a}b"):
        numbered = companion_key(name, b":x")
        number, _, rest = numbered[1:].partition(b"}")
        with pytest.raises(ValueError, match="digit"):
            companion_key(number, rest)


@pytest.mark.parametrize(
    ("name", "companion"),
    [
        (b"orders.0", b"{orders.0}:lease"),
        (b"a{b}c", b"{b}5:a{b}c:lease"),
        (b"{b}", b"{b}3:{b}:lease"),
        (b"open{", b"{open{}:lease"),
    ],
)
def test_a_companion_shows_whose_it_is(name: bytes, companion: bytes) -> None:
    assert companion_key(name, b":lease") == companion


@pytest.mark.parametrize("suffix", [b"", b"1", b"0:lease"])
def test_a_suffix_that_would_blur_the_forms_is_refused(suffix: bytes) -> None:
    with pytest.raises(ValueError, match="suffix"):
        companion_key(b"orders", suffix)


@given(st.binary(max_size=20))
def test_a_tag_is_its_own_tag_unless_braces_break_it(tag: bytes) -> None:
    if tag and b"}" not in tag:
        assert hash_tag(b"before{%s}after{x}" % tag) == tag


@pytest.mark.redis
async def test_slots_and_companions_are_what_servers_say(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster(Flavour.REDIS_7_0)
    names = [name for name in map(_name_of, range(3_000)) if name]
    async with client.connect(cluster.url) as node:
        for name in names:
            said = await client.raw(node, "CLUSTER", "KEYSLOT", name)
            assert said == slot_of(name)
            assert said == await client.raw(node, "CLUSTER", "KEYSLOT", companion_key(name, b":lease"))


def _name_of(number: int) -> bytes:
    """Bytes among which braces are as likely as all others together."""
    alphabet = b"{}{}\x00\xffab1:"
    digits = []
    while number:
        number, digit = divmod(number, len(alphabet))
        digits.append(alphabet[digit])
    return bytes(digits)


def test_every_slot_has_a_number() -> None:
    # Names that begin with a closing brace have no tag, and cannot be one.
    assert {slot_of(companion_key(b"}%d" % number, b":x")) for number in range(200_000)} == set(range(SLOTS))

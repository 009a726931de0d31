"""What contradicts itself in a Redis source, and between it and where its dead letters are stored."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from runner.clients.redis_url import Address, RedisUrl
from runner.config.codes import Code
from runner.config.destinations import RedisStreamsDestinationConfig
from runner.config.judgement import JudgedMapping
from runner.config.sources import RedisDelivery, RedisStreamsSourceConfig
from runner.config.units import format_duration
from runner.config.wording import quoted
from runner.core.lanes import Ordering
from runner.core.lease import HEARTBEATS, LeaseTimes

_SOURCE: Final = "source.redis_streams"
_DESTINATION: Final = "destination_config.on_failure.redis_streams"
_CREDENTIALS: Final = ("username", "password", "allow_plaintext", "tls")


class Place(NamedTuple):
    """One of the addresses by which data of Redis is found; who has one in common reads the same data."""

    address: Address
    service: str | None
    database: int


def places_of(url: RedisUrl) -> tuple[Place, ...]:
    """Two URLs that share a place are certainly of the same data; others may be too."""
    addresses = [address._replace(host=address.host.lower()) for address in url.addresses]
    return tuple([Place(address, url.service, url.database) for address in addresses])


def check(mapping: JudgedMapping) -> None:
    """Report what contradicts itself around a Redis source or destination of ``mapping``."""
    source = mapping.redis_streams
    if source is not None:
        _check_heartbeat(mapping, source)
        _check_commit_timeout(mapping, source)
        _check_fields(mapping, source)
        _check_order(mapping, source)
    destination = mapping.on_failure.redis_streams if mapping.on_failure else None
    if destination is None or not mapping.known(f"{_DESTINATION}.url"):
        return
    if destination.url is None:
        _check_borrowed_server(mapping)
    if source is not None:
        _check_stream(mapping, source, destination)


def _check_heartbeat(mapping: JudgedMapping, source: RedisStreamsSourceConfig) -> None:
    exact = LeaseTimes(source.lease, source.heartbeat).longest_heartbeat
    longest = math.floor(round(exact * 1000, 3)) / 1000  # in whole milliseconds, as it is told
    if not mapping.known(f"{_SOURCE}.lease", f"{_SOURCE}.heartbeat") or source.heartbeat <= longest:
        return
    mapping.report(
        Code.HEARTBEAT_TOO_SLOW,
        f"{_SOURCE}.heartbeat",
        f"heartbeat {format_duration(source.heartbeat)} is too slow for lease {format_duration(source.lease)}, "
        f"which has to outlast {HEARTBEATS} of them and a margin",
        f"write a heartbeat of {format_duration(longest)} at most, or a longer lease",
    )


def _check_commit_timeout(mapping: JudgedMapping, source: RedisStreamsSourceConfig) -> None:
    commit_timeout = mapping.mapping.commit_timeout
    if not mapping.known(f"{_SOURCE}.lease", "commit_timeout") or commit_timeout < source.lease:
        return
    mapping.report(
        Code.COMMIT_TIMEOUT_OVER_LEASE,
        "commit_timeout" if mapping.written("commit_timeout") else f"{_SOURCE}.lease",
        f"commit_timeout {format_duration(commit_timeout)} is not shorter than lease {format_duration(source.lease)}",
        "another could have them before the checkpoint is stored: lower commit_timeout",
    )


def _check_fields(mapping: JudgedMapping, source: RedisStreamsSourceConfig) -> None:
    if not mapping.known(f"{_SOURCE}.key_field", f"{_SOURCE}.value_field") or source.key_field is None:
        return
    if source.key_field == source.value_field:
        mapping.report(
            Code.FIELD_TWICE,
            f"{_SOURCE}.value_field",
            f"field {quoted(source.key_field)} cannot be both the key and the value",
            "name another field, or remove one of key_field and value_field",
        )


def _check_order(mapping: JudgedMapping, source: RedisStreamsSourceConfig) -> None:
    if source.delivery is not RedisDelivery.SHARED or not mapping.known("ordering", f"{_SOURCE}.delivery"):
        return
    if mapping.mapping.ordering is not Ordering.NONE:
        mapping.report(
            Code.SHARED_HAS_NO_ORDER,
            "ordering",
            f"ordering: {mapping.mapping.ordering} cannot be kept with delivery: shared, which hands the entries of a "
            "stream out to all processes of the group",
            "write delivery: ordered, and scale out by more streams, or ordering: none",
        )


def _check_borrowed_server(mapping: JudgedMapping) -> None:
    if mapping.kafka is not None or mapping.file is not None:
        mapping.report(
            Code.CLUSTER_MISSING,
            _DESTINATION,
            "a Redis destination needs a url here: the source is no Redis server that it could share",
            "add url",
            points_at_key=True,
        )
        return
    for key in _CREDENTIALS:
        if mapping.written(f"{_DESTINATION}.{key}"):
            mapping.report(
                Code.SECURITY_WITHOUT_CLUSTER,
                f"{_DESTINATION}.{key}",
                f"{key} without url: the source's server is used, as the source reaches it",
                f"add url, or remove {key}",
                points_at_key=True,
            )


def _check_stream(
    mapping: JudgedMapping, source: RedisStreamsSourceConfig, destination: RedisStreamsDestinationConfig
) -> None:
    if not mapping.known(f"{_SOURCE}.url", f"{_SOURCE}.streams", f"{_DESTINATION}.stream"):
        return
    is_elsewhere = destination.url is not None and set(places_of(destination.url)).isdisjoint(places_of(source.url))
    if not is_elsewhere and destination.stream in source.streams:
        mapping.report(
            Code.DESTINATION_IS_SOURCE,
            f"{_DESTINATION}.stream",
            f"stream {quoted(destination.stream)} is a source of the mapping: its dead letters would come again for "
            "ever",
            "use another stream",
        )

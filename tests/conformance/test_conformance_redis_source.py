"""The ordered Redis Streams source keeps every adapter's promises, on every kind of server."""

from __future__ import annotations

import pytest

from redis_harness.conformance import RedisSourceConformance
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR]


class TestRedisSource(RedisSourceConformance):
    kind = RedisStreamsSource

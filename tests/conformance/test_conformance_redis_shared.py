"""The shared Redis Streams source keeps every adapter's promises, on every kind of server."""

from __future__ import annotations

import pytest

from redis_harness.conformance import RedisSourceConformance
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from runner.sources.redis_shared import SharedStreamsSource

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR]


class TestSharedRedisSource(RedisSourceConformance):
    kind = SharedStreamsSource

"""What a seed decides before anything happens."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from engine_harness.policies import a_policy
from runner.core.lanes import Ordering
from runner.engine.policy import MappingPolicy

POISON = b"poison"
REFUSED = b"refused"
TOMBSTONE_SHARE = 0.05
REFUSED_SHARE = 0.1


@dataclass
class Scenario:
    """The policy of the mapping, and how its function, its group and its records behave."""

    seed: int
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed)
        self.ordering = rng.choice(list(Ordering))
        self.factor = 1 if self.ordering is Ordering.PARTITION else rng.choice([1, 2, 5, 16])
        self.attempts = rng.choice([-1, 0, 1, 3])
        self.has_destination = rng.random() < 0.7
        self.is_partial = rng.random() < 0.4
        self.poison_share = rng.choice([0.0, 0.02, 0.2])
        self.failing_share = rng.choice([0.0, 0.05, 0.3])
        self.throttling_share = rng.choice([0.0, 0.1, 0.3])
        self.hanging_share = rng.choice([0.0, 0.02, 0.1])
        self.latencies = rng.choice([[0.0, 0.0, 0.3], [0.05, 0.5], [0.2, 2.0]])
        self.is_stubborn = rng.random() < 0.3  # the function ends no sooner when it is cancelled
        self.partitions = rng.randint(1, 3)
        self.permits = rng.choice([1, 2, 5, 100])
        self.budget = rng.choice([300, 6_000, 1 << 30])
        self.maximum_fetch_records = rng.choice([1, 7, 50])
        self.keys: list[bytes | None] = [None, *self._keys(rng.choice([1, 4, 12]))]
        self.policy = self._policy(rng)

    def _keys(self, count: int) -> list[bytes]:
        """Their lanes are the seed's choice, since the hash that picks lanes differs from process to process."""
        keys: list[bytes] = []
        number = 0
        for _ in range(count):
            lane = self.rng.randrange(self.factor)
            while hash(b"k%d" % number) % self.factor != lane:
                number += 1
            keys.append(b"k%d" % number)
            number += 1
        return keys

    def _policy(self, rng: random.Random) -> MappingPolicy:
        return a_policy(
            name=f"seed-{self.seed}",
            batch_size=rng.choice([1, 3, 10]),
            window=rng.choice([0.0, 0.3, 3.0]),
            ordering=self.ordering,
            factor=self.factor,
            attempts=self.attempts,
            backoff=rng.choice([0.1, 1.0]),
            maximum_backoff=4.0,
            age=rng.choice([None, None, 15.0]),
            bisect=rng.random() < 0.5,
            records=rng.choice([5, 40, 10_000]),
            size=rng.choice([100, 1 << 20]),
            ahead=rng.choice([3, 30, 10_000]),
            concurrency=rng.choice([None, 1, 4]),
            wants=(lambda record: record.value != REFUSED) if rng.random() < 0.4 else None,
            skip_tombstones=rng.random() < 0.3,
            drain_timeout=rng.choice([0.3, 3.0, 8.0]),
            commit_interval=rng.choice([0.2, 1.0]),
            commit_timeout=rng.choice([0.5, 2.0]),
        )

    def a_value(self) -> bytes | None:
        roll = self.rng.random()
        if roll < self.poison_share:
            return POISON
        if roll > 1 - TOMBSTONE_SHARE:
            return None
        return REFUSED if roll > 1 - TOMBSTONE_SHARE - REFUSED_SHARE else b"good"

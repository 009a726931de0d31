"""Whatever happens in whatever order: nothing is lost, no checkpoint passes what is not settled, order is kept."""

from __future__ import annotations

import os

import anyio
import looptime
import pytest

from engine_harness.simulation import Simulation

SEEDS = int(os.environ.get("STREAM_RUNNER_SIMULATION_SEEDS", "100"))
FIRST = int(os.environ.get("STREAM_RUNNER_SIMULATION_FIRST_SEED", "0"))
TIME_LIMIT = 20_000.0
"""Virtual seconds."""


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_simulation(seed: int) -> None:
    simulations: list[Simulation] = []

    async def run() -> None:
        simulations.append(Simulation(seed))
        with anyio.fail_after(TIME_LIMIT):
            await simulations[0].run()

    try:
        anyio.run(run, backend_options={"loop_factory": lambda: looptime.new_event_loop(start=0)})
    except BaseException:
        print(f"again with: STREAM_RUNNER_SIMULATION_FIRST_SEED={seed} STREAM_RUNNER_SIMULATION_SEEDS=1")
        print(vars(simulations[0].scenario), *simulations[0].log, sep="\n")
        raise

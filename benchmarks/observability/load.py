"""A bounded load on all models with mixed traffic, and a burst on the last model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.traffic import Draw, Observed, mixture, run_client, several_items
from benchmarks.workloads import Workload

_STEADY_CLIENTS = 8
_BURST_CLIENTS = 24
_BURST_ITEMS = 6
_PAUSE_SECONDS = 0.08


@dataclass
class Load:
    """A load on several replicas.

    Attributes:
        ports: Of the replicas, on 127.0.0.1; each client uses one.
        workloads: The models and their items.
        seconds: Duration. The burst on the last model is the middle sixth of it.
        observed: What the clients observed.
    """

    ports: Sequence[int]
    workloads: Sequence[Workload]
    seconds: float
    observed: Observed = field(default_factory=Observed)

    def run(self) -> None:
        """Run the load."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        now = time.monotonic()
        steady = mixture(self.workloads, several=0.14, bad=0.06, short_deadline=0.005, hang_up=0.035)
        last = self.workloads[-1]
        async with asyncio.TaskGroup() as tasks:
            for seed in range(_STEADY_CLIENTS):
                tasks.create_task(self._client(seed, steady, now + self.seconds))
            await asyncio.sleep(self.seconds * 5 / 12)
            for seed in range(_BURST_CLIENTS):
                tasks.create_task(
                    self._client(
                        seed,
                        lambda random: several_items(last, random.choices(last.items, k=_BURST_ITEMS)),
                        now + self.seconds * 7 / 12,
                    )
                )

    async def _client(self, seed: int, draw: Draw, until: float) -> None:
        port = self.ports[seed % len(self.ports)]
        await run_client(port, draw, self.observed, until, seed, pause_seconds=_PAUSE_SECONDS)

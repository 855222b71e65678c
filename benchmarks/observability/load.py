"""A bounded load on every model with all that users do: good and bad bodies, short deadlines, a burst."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.workloads import Workload

_STEADY_CLIENTS = 8
_BURST_CLIENTS = 24
_PAUSE_SECONDS = 0.08


@dataclass
class Load:
    """What shall be sent.

    Attributes:
        addresses: Of the replicas, asked in turn.
        workloads: The models to ask, and their items.
        seconds: Length of the run; the burst, all on the last model, is its middle sixth.
        statuses: What came back, counted; `hang-up` for what was not waited for.
    """

    addresses: Sequence[str]
    workloads: Sequence[Workload]
    seconds: float
    statuses: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Send it all."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        started = time.monotonic()
        end = started + self.seconds
        burst = started + self.seconds * 5 / 12, started + self.seconds * 7 / 12
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=_STEADY_CLIENTS + _BURST_CLIENTS
        )
        async with httpx.AsyncClient(limits=limits, timeout=30) as client, asyncio.TaskGroup() as tasks:
            for seed in range(_STEADY_CLIENTS):
                tasks.create_task(self._steady(client, random.Random(seed), end))
            for seed in range(_BURST_CLIENTS):
                tasks.create_task(self._burst(client, random.Random(seed), burst))

    async def _steady(self, client: httpx.AsyncClient, dice: random.Random, end: float) -> None:
        while time.monotonic() < end:
            workload = dice.choice(self.workloads)
            request = _asking(workload, dice.choices(workload.items, k=4 if dice.random() < 0.15 else 1))
            chance = dice.random()
            if chance < 0.04:
                request = _asking(workload, [b""])
            elif chance < 0.06:
                request["params"] = {"model": "unheard-of"}
            elif chance < 0.065:
                request["headers"] = {"X-Timeout-Ms": "1"}
            elif chance < 0.10:
                request["timeout"] = 0.004
            await self._send(client, dice, request)
            await asyncio.sleep(dice.expovariate(1 / _PAUSE_SECONDS))

    async def _burst(
        self, client: httpx.AsyncClient, dice: random.Random, window: tuple[float, float]
    ) -> None:
        await asyncio.sleep(window[0] - time.monotonic())
        while time.monotonic() < window[1]:
            workload = self.workloads[-1]
            await self._send(client, dice, _asking(workload, dice.choices(workload.items, k=6)))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _send(self, client: httpx.AsyncClient, dice: random.Random, request: dict[str, Any]) -> None:
        try:
            response = await client.post(dice.choice(self.addresses) + request.pop("path"), **request)
            self.statuses[str(response.status_code)] += 1
        except httpx.TimeoutException:
            self.statuses["hang-up"] += 1
        with contextlib.suppress(httpx.TransportError):
            if dice.random() < 0.02:
                await client.get(dice.choice(self.addresses) + dice.choice(("/readyz", "/v1/models")))


def _asking(workload: Workload, items: Sequence[bytes]) -> dict[str, Any]:
    """Give path and body that ask a model for some items: raw where it is one, else JSON."""
    request: dict[str, Any] = {"path": f"/v1/{workload.task}", "params": {"model": workload.name}}
    if workload.task == "text-embedding":
        return request | {"path": "/v1/embeddings", "json": {"input": [item.decode() for item in items]}}
    if len(items) == 1:
        return request | {"content": items[0]}
    texts = [item.decode() if workload.is_text else base64.b64encode(item).decode() for item in items]
    return request | {"json": {"inputs": texts}}

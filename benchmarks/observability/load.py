"""A bounded load with all that users do: good and bad bodies, short deadlines, hang-ups, a burst."""

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

from tests.tiny_models import picture

_STEADY_CLIENTS = 8
_BURST_CLIENTS = 24
_PAUSE_SECONDS = 0.08
_ROUTE = "/v1/image-classification"


@dataclass
class Load:
    """What shall be sent.

    Attributes:
        addresses: Of the replicas, asked in turn.
        models: Names of the models to ask.
        seconds: Length of the run; the burst, all on the last model, is its middle sixth.
        statuses: What came back, counted; `hang-up` for what was not waited for.
    """

    addresses: Sequence[str]
    models: Sequence[str]
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
            request: dict[str, Any] = {"params": {"model": dice.choice(self.models)}}
            request["content"] = picture(dice.randrange(100), size=dice.choice((8, 28, 200)))
            chance = dice.random()
            if chance < 0.04:
                request["content"] = b"no picture"
            elif chance < 0.06:
                request["params"] = {"model": "unheard-of"}
            elif chance < 0.065:
                request["headers"] = {"X-Timeout-Ms": "1"}
            elif chance < 0.10:
                request["timeout"] = 0.004
            elif chance < 0.25:
                del request["content"]
                request["json"] = _several_items(dice, 4)
            await self._send(client, dice, request)
            await asyncio.sleep(dice.expovariate(1 / _PAUSE_SECONDS))

    async def _burst(
        self, client: httpx.AsyncClient, dice: random.Random, window: tuple[float, float]
    ) -> None:
        await asyncio.sleep(window[0] - time.monotonic())
        while time.monotonic() < window[1]:
            await self._send(
                client, dice, {"params": {"model": self.models[-1]}, "json": _several_items(dice, 6)}
            )
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _send(self, client: httpx.AsyncClient, dice: random.Random, request: dict[str, Any]) -> None:
        try:
            response = await client.post(dice.choice(self.addresses) + _ROUTE, **request)
            self.statuses[str(response.status_code)] += 1
        except httpx.TimeoutException:
            self.statuses["hang-up"] += 1
        with contextlib.suppress(httpx.TransportError):
            if dice.random() < 0.02:
                await client.get(dice.choice(self.addresses) + dice.choice(("/readyz", "/v1/models")))


def _several_items(dice: random.Random, count: int) -> dict[str, Any]:
    return {"inputs": [base64.b64encode(picture(dice.randrange(100))).decode() for _ in range(count)]}

"""`POST /v1/speech-recognition`: as every task, with time for long recordings and a slow last step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from service.api.bodies import Body
from service.api.tasks import Job, TaskEndpoint, answer_all
from service.errors import DeadlineExceeded
from service.loader import Version
from service.tasks import Decoded
from service.tasks.sound import claimed_seconds
from service.tasks.task import Outputs, Raw, Result

_Result = TypeVar("_Result")


class SpeechEndpoint(TaskEndpoint):
    """The endpoint of speech recognition."""

    async def extra_seconds(self, version: Version, body: Body) -> float:
        """Give more time to longer recordings, as their headers state their length: nothing is decoded yet.

        A header that lies upwards gains no more than the longest recording would, which a client may
        ask for anyway.
        """
        stated = self.in_worker(_stated_seconds, body.raws, self.limits.max_audio_seconds)
        return version.manifest.deadline_per_second * await _within(
            version.manifest.deadline_seconds,
            stated,
            "the deadline passed before the recording was looked at",
        )

    async def answer(self, job: Job, decoded: Sequence[Decoded], outputs: Sequence[Outputs]) -> list[Result]:
        """Search for the words in a worker: an hour of speech takes seconds."""
        left = max(0.0, job.ticket.deadline - time.monotonic())
        answers = self.in_worker(answer_all, job, decoded, outputs)
        return await _within(left, answers, "the deadline passed before the words were found")


def _stated_seconds(raws: Sequence[Raw], most: float) -> float:
    return sum(min(claimed_seconds(raw), most) for raw in raws if isinstance(raw, bytes))


async def _within(seconds: float, result: Awaitable[_Result], late: str) -> _Result:
    try:
        return await asyncio.wait_for(result, seconds)
    except TimeoutError as error:
        raise DeadlineExceeded(late) from error

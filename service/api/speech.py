"""`POST /v1/speech-recognition`: as every task, with time for long recordings and a slow last step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar, cast

from service.api.bodies import Body
from service.api.tasks import Job, TaskEndpoint, answer_all
from service.errors import DeadlineExceeded, TooLarge
from service.loader import Version
from service.tasks import Decoded, Limits
from service.tasks.sound import SoundPart, claimed_seconds
from service.tasks.task import Outputs, Raw, Result

_Result = TypeVar("_Result")


class SpeechEndpoint(TaskEndpoint):
    """The endpoint of speech recognition."""

    deadline_grows = True

    async def extra_seconds(self, version: Version, body: Body) -> float:
        """Give more time to longer recordings, as their headers state their length: nothing is decoded yet.

        A header that lies upwards gains no more than the longest recording would, which a client may
        ask for anyway.
        """
        manifest = version.manifest
        stated = self.in_worker(_stated_seconds, body.raws, self.limits.max_audio_seconds)
        patience = manifest.deadline_seconds + manifest.deadline_per_second  # a second is what any may have
        seconds = await _within(patience, stated, "the deadline passed before the recording was looked at")
        return manifest.deadline_per_second * seconds

    def decode(self, job: Job, index: int, limits: Limits) -> Decoded:
        """Decode one recording.

        Raises:
            TooLarge: The request's recordings are too long in all. A file of a kilobyte may hold an hour.
        """
        decoded = super().decode(job, index, limits)
        job.seconds.append(cast(float, decoded.context["seconds"]))
        if sum(job.seconds) > limits.max_audio_seconds:
            raise TooLarge(
                f"the recordings are longer than {limits.max_audio_seconds:g} seconds in all, "
                "which is the limit of a request",
                param="inputs",
            )
        return decoded

    async def answer(self, job: Job, decoded: Sequence[Decoded], outputs: Sequence[Outputs]) -> list[Result]:
        """Search for the words in a worker: an hour of speech takes seconds."""
        for item in decoded:
            for part in item.parts:
                cast(SoundPart, part).release()
        left = max(0.0, job.ticket.deadline - time.monotonic())
        answers = self.in_worker(answer_all, job, decoded, outputs)
        return await _within(left, answers, "the deadline passed before the words were found")


def _stated_seconds(raws: Sequence[Raw], most: float) -> float:
    return min(most, sum(claimed_seconds(raw) for raw in raws if isinstance(raw, bytes)))


async def _within(seconds: float, result: Awaitable[_Result], late: str) -> _Result:
    try:
        return await asyncio.wait_for(result, seconds)
    except TimeoutError as error:
        raise DeadlineExceeded(late) from error

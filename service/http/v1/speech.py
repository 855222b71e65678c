"""`POST /v1/speech-recognition`: as every task, with time for long recordings and a slow last step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from service.errors import TooLarge
from service.http.v1.request_body import Body
from service.http.v1.tasks import Job, TaskEndpoint, answer_all
from service.inference.decoding_pool import before
from service.repository.loader import Version
from service.tasks import Decoded, Limits
from service.tasks.audio.audio_file import seconds_in_header
from service.tasks.audio.waveform import AudioSegment
from service.tasks.task import Outputs, Raw, Result


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
        late = "the deadline passed before the recording was looked at"
        seconds = await before(time.monotonic() + patience, stated, late)
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
                cast(AudioSegment, part).release()
        answers = self.in_worker(answer_all, job, decoded, outputs)
        return await before(job.pending.deadline, answers, "the deadline passed before the words were found")


def _stated_seconds(raws: Sequence[Raw], most: float) -> float:
    return min(most, sum(seconds_in_header(raw) for raw in raws if isinstance(raw, bytes)))

"""`POST /v1/object-detection`: as every task, and with `?format=image` the picture with its boxes drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic import BaseModel
from starlette.responses import Response

from service.errors import ValidationFailed
from service.http.v1.request_body import Body
from service.http.v1.tasks import Job, TaskEndpoint
from service.inference.decoding_pool import before
from service.repository.loader import Version
from service.tasks import Decoded
from service.tasks.image.detection import DetectionParameters, Detections
from service.tasks.image.drawing import draw_detections
from service.tasks.task import Result


class DetectionEndpoint(TaskEndpoint):
    """The endpoint of object detection."""

    def check(self, version: Version, body: Body, parameters: BaseModel) -> None:
        """Refuse what no answer can hold.

        Raises:
            ValidationFailed: Several pictures in a request that wants one drawn.
        """
        if _wants_picture(parameters) and len(body.raws) != 1:
            raise ValidationFailed("format=image takes one picture a request", param="format")

    async def respond(self, job: Job, decoded: Sequence[Decoded], results: Sequence[Result]) -> Response:
        """Answer as JSON, or with the drawn picture.

        Raises:
            DeadlineExceeded: It was not drawn in time.
        """
        if not _wants_picture(job.parameters):
            return await super().respond(job, decoded, results)
        raw, found = cast(bytes, job.body.raws[0]), cast(Detections, results[0])
        drawing = self.in_worker(draw_detections, raw, found, self.limits.max_pixels)
        late = "the deadline passed before the picture was drawn"
        picture = await before(job.pending.deadline, drawing, late)
        return Response(picture, media_type="image/png")


def _wants_picture(parameters: BaseModel) -> bool:
    return cast(DetectionParameters, parameters).format == "image"

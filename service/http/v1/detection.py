"""`POST /v1/object-detection`: as every task, and with `?format=image` the image with its boxes drawn."""

from __future__ import annotations

from typing import Any, cast

from starlette.responses import Response

from service.errors import ValidationFailed
from service.http.v1.operation import BINARY
from service.http.v1.tasks import TaskEndpoint
from service.inference.decoding_pool import before
from service.inference.request import InferenceAnswer, InferenceRequest
from service.tasks.image.detection import DetectionParameters, Detections
from service.tasks.image.drawing import draw_detections


class DetectionEndpoint(TaskEndpoint):
    """The endpoint of object detection."""

    def check(self, asked: InferenceRequest) -> None:
        """Refuse what no answer can hold.

        Raises:
            ValidationFailed: Several images in a request that wants one drawn.
        """
        if _wants_image(asked) and len(asked.items) != 1:
            raise ValidationFailed("format=image takes one picture a request", param="format")

    async def respond(self, asked: InferenceRequest, answer: InferenceAnswer) -> Response:
        """Answer as JSON, or with the drawn image.

        Raises:
            DeadlineExceeded: It was not drawn in time.
        """
        if not _wants_image(asked):
            return await super().respond(asked, answer)
        raw, found = cast(bytes, asked.items[0]), cast(Detections, answer.results[0])
        assert asked.pending is not None, "the request was answered"
        drawing = self.core.pool.run(draw_detections, raw, found, self.core.limits.max_pixels, kind="drawing")
        late = "the deadline passed before the picture was drawn"
        return Response(await before(asked.pending.deadline, drawing, late), media_type="image/png")

    def describe(self) -> dict[str, Any]:
        """Return what the OpenAPI document says of the request, and of the drawn image."""
        return super().describe() | {"responses": {"200": {"content": {"image/png": {"schema": BINARY}}}}}


def _wants_image(asked: InferenceRequest) -> bool:
    return cast(DetectionParameters, asked.parameters).format == "image"

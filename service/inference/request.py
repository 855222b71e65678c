"""The core's input and output types. They name no transport: every way into the service fills them in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from pydantic import BaseModel

from service.engine.queue.pending_request import DEFAULT_PRIORITY, PendingRequest
from service.repository.loader import Version
from service.tasks.task import Outputs, Raw, Result

Tensors = Mapping[str, NDArray[Any]]


@dataclass(slots=True, eq=False)
class InferenceRequest:
    """One request for one model.

    Attributes:
        task: The task's name.
        model: Name of the model; None is the task's default.
        version: Number of the version; None is the newest that is ready.
        parameters: Of the task's own class; None is its defaults.
        items: Raw files or texts, or the graph's inputs of one item without the batch axis, by name.
        media_types: What the caller says each raw item is; empty where it says nothing.
        received: When the request was there, in `time.monotonic()` seconds; its deadline counts from then.
        timeout_seconds: How long the caller waits; None is the model's own deadline.
        priority: 1 is the highest, 9 the lowest.
        request_id: For the log.
        size_bytes: Stated size of the items, where they are not there yet.

        target: The version that answers. Set by `InferenceCore.prepare`.
        pending: Its place in the engine, with the times of queue and run. Set by `InferenceCore.infer`.
        item_count: Items in the engine; a long recording makes several. Set by `InferenceCore.infer`.
        decode_seconds: Time until the items were in the queue; 0 before. Set by `InferenceCore.infer`.
        audio_seconds: Length of each recording that was decoded; threads append to it.
        unfinished: Work in threads that still reads the items when `infer` has returned; None without any.
    """

    task: str
    model: str | None = None
    version: str | None = None
    parameters: BaseModel | None = None
    items: Sequence[Raw | Tensors] = ()
    media_types: Sequence[str] = ()
    received: float = 0.0
    timeout_seconds: float | None = None
    priority: int = DEFAULT_PRIORITY
    request_id: str = ""
    size_bytes: int = 0

    target: Version | None = None
    pending: PendingRequest | None = None
    item_count: int = 0
    decode_seconds: float = 0.0
    audio_seconds: list[float] = field(default_factory=list)
    unfinished: asyncio.Future[Any] | None = None


@dataclass(frozen=True, slots=True)
class InferenceAnswer:
    """The answer to a request.

    Attributes:
        version: Who answered.
        results: One a raw item, in the request's order; empty for tensors.
        outputs: The graph's outputs, without the batch axis, of each item that came as tensors.
        costs: Cost of each item in the task's own unit, such as tokens.
    """

    version: Version
    results: Sequence[Result] = ()
    outputs: Sequence[Outputs] = ()
    costs: Sequence[int] = ()

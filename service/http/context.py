"""What one HTTP request carries with it, from the first layer to its log line."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from service.inference.request import InferenceRequest

Scope = MutableMapping[str, Any]


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request. Filled in by the layers as they get to know it.

    Attributes:
        request_id: The client's own, or one that was made.
        headers: By name in lower case; of repeated ones the last.
        received: When its whole body was there, in `time.monotonic()` seconds; None while it is not.
        route: Template of the route; empty where no route matched.
        key: Name of the API key; empty without one.
        inference: What the core is asked; None before that is known and for other routes.
        encode_seconds: Time of making the answer's body; 0 before.
        error_code: The error's code; empty where there is none. `error_message` likewise.
        refused: Why it was refused at once, for the metric; empty where it was not.
    """

    request_id: str = ""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    received: float | None = None
    route: str = ""
    key: str = ""
    inference: InferenceRequest | None = None
    encode_seconds: float = 0.0
    error_code: str = ""
    error_message: str = ""
    refused: str = ""


def attach_context(scope: Scope) -> RequestContext:
    """Return a request's context; it is made for the first who asks."""
    state = scope.setdefault("state", {})
    context: RequestContext | None = state.get("context")
    if context is None:
        context = state["context"] = RequestContext()
    return context


def context_of(scope: Scope) -> RequestContext:
    """Return the context that `RequestMiddleware` attached."""
    context: RequestContext = scope["state"]["context"]
    return context

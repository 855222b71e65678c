"""The error tree: one class per way a request, a model or a start can fail.

A leaf of the import graph: classes with a stable code and an integer HTTP status, no HTTP library.
`http.errors` renders the first branch; nothing else maps errors to statuses.

    KotaeError
    ├── RequestError                    an HTTP request that cannot be answered
    │   ├── InvalidInput        400     the body is not what it claims to be, or is empty
    │   ├── Unauthorized        401     no key, or none that we know
    │   ├── Forbidden           403     a key that may not do this
    │   ├── NotFound            404     unknown model, version or route
    │   ├── MethodNotAllowed    405
    │   ├── BodyTimeout         408     the body came too slowly
    │   ├── TooLarge            413     too many bytes, pixels, seconds or items
    │   ├── UnsupportedMedia    415     recognised, but not something we decode
    │   ├── ValidationFailed    422     well-formed, but a parameter is out of range
    │   ├── ClientGone          499     the client hung up; counted, never sent
    │   ├── InferenceFailed     500     ours; the details stay in the log
    │   ├── Overloaded          429     would not be answered in time; come back later
    │   ├── NotReady            503     the model or the server is not answering now
    │   └── DeadlineExceeded    504     admitted, but its deadline passed
    ├── ModelRejected                   a model folder or a version that must not answer
    └── StartFailed                     the service cannot start as it was asked to
"""

from __future__ import annotations

from typing import ClassVar

_LONGEST_MESSAGE = 600  # clients' own words may stand in a message, and messages are logged
_LONGEST_PARAM = 100


class KotaeError(Exception):
    """Anything that Kotae itself reports as wrong."""


class RequestError(KotaeError):
    """A request that gets an error as its answer.

    Args:
        message: What is wrong and what would be right, for the client to read.
        param: The field, parameter or item at fault, such as `top_k` or `inputs[9]`.
        retry_after_seconds: When coming back makes sense; sent as `Retry-After`.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "inference_failed"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_seconds: float | None = None
    ) -> None:
        message = _shortened(message, _LONGEST_MESSAGE)
        super().__init__(message)
        self.message = message
        self.param = param and _shortened(param, _LONGEST_PARAM)
        self.retry_after_seconds = retry_after_seconds

    def at_item(self, index: int) -> RequestError:
        """Return the same error with the item at fault named in message and `param`."""
        param = f"inputs[{index}]"
        named = type(self)(
            f"{param}: {self.message}", param=param, retry_after_seconds=self.retry_after_seconds
        )
        named.__cause__ = self
        return named


class InvalidInput(RequestError):
    """The body, or an item in it, is empty or not decodable as what it claims to be."""

    status = 400
    code = "invalid_input"


class Unauthorized(RequestError):
    """No API key, or one that is not known here."""

    status = 401
    code = "unauthorized"


class Forbidden(RequestError):
    """A known API key whose scopes do not allow this."""

    status = 403
    code = "forbidden"


class NotFound(RequestError):
    """No such model, version or route."""

    status = 404
    code = "not_found"


class MethodNotAllowed(RequestError):
    """The route exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class BodyTimeout(RequestError):
    """The client took too long to send its body."""

    status = 408
    code = "request_timeout"


class TooLarge(RequestError):
    """More bytes, pixels or items than the stated limit."""

    status = 413
    code = "too_large"


class UnsupportedMedia(RequestError):
    """A media type or content encoding that we recognise but do not decode."""

    status = 415
    code = "unsupported_media"


class ValidationFailed(RequestError):
    """Well-formed, but a parameter or field is out of range, unknown or missing."""

    status = 422
    code = "validation_error"


class Overloaded(RequestError):
    """Refused at once, because it could not be answered before its deadline.

    Args:
        message: What is full.
        reason: For the metric: `event_loop`, `decoding`, `deadline`, `queue_full`, `inflight_bytes` or
            `connections`.
        retry_after_seconds: When coming back makes sense.
    """

    status = 429
    code = "overloaded"

    def __init__(self, message: str, *, reason: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.reason = reason


class ClientGone(RequestError):
    """The client hung up before its answer; counted as status 499, never sent."""

    status = 499
    code = "client_gone"


class InferenceFailed(RequestError):
    """We failed. The client gets a fixed text and the request id, the log gets the traceback."""

    status = 500
    code = "inference_failed"


class NotReady(RequestError):
    """The model failed its checks or is loading, or the server is past its drain grace."""

    status = 503
    code = "not_ready"


class DeadlineExceeded(RequestError):
    """The request was admitted, but its deadline passed before the answer was there."""

    status = 504
    code = "deadline_exceeded"


class ModelRejected(KotaeError):
    """A model folder or version that fails a check; the text says which file and why."""


class StartFailed(KotaeError):
    """The service cannot start as it was asked to; the text says what is missing."""


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

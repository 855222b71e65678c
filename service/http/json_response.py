"""JSON responses of the task endpoints and of errors; cheaper than the framework's own class."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class JsonResponse(Response):
    """A JSON response.

    Args:
        content: The encoded document.
        status: HTTP's.
        headers: In addition to length and type.
    """

    def __init__(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.body = content
        self.status_code = status
        length = str(len(content)).encode()
        self.raw_headers = [(b"content-length", length), (b"content-type", b"application/json")]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})

"""Refuse what would be late before the event loop makes a task for it.

Most of the cost of a refusal lies in the task, the layers and the response objects. The checks are cheap and
need only the head of the request. So, for a moment after a refusal, the protocol asks here when a whole
request has arrived, and writes the refusal itself. All other requests go the usual way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from service.errors import Overloaded, RequestError
from service.http.auth import Authentication
from service.http.context import RequestContext
from service.http.errors import render_for
from service.http.request_log import RequestLog
from service.http.v1.tasks import TaskEndpoint
from service.inference.core import InferenceCore

_STATUS = 429


class EarlyRefusal:
    """Checks requests that have arrived whole. Belongs to the event loop.

    Args:
        core: Refuses what would be late.
        endpoints: By path.
        authentication: Checks keys.
        log: Counts and logs every request.
        is_draining: Returns whether responses must ask the client to close its connection. Then nothing is
            refused here.
    """

    def __init__(
        self,
        core: InferenceCore,
        endpoints: Mapping[str, TaskEndpoint],
        authentication: Authentication,
        log: RequestLog,
        is_draining: Callable[[], bool],
    ) -> None:
        self._core = core
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self._authentication = authentication
        self._log = log
        self._is_draining = is_draining

    def check(self, url: bytes, headers: Iterable[tuple[bytes, bytes]], port: int, received: float) -> bytes:
        """Check the head of a request whose body has arrived.

        Args:
            url: As it was sent.
            headers: With names in lower case.
            port: That it came to.
            received: When it was there, in `time.monotonic()` seconds.

        Returns:
            The whole response, if the request is refused; else nothing.
        """
        if not self._core.shedding.is_refusing or self._is_draining():
            return b""
        path, _, query = url.partition(b"?")
        endpoint = self._endpoints.get(path)
        if endpoint is None:
            return b""
        begun = time.perf_counter()
        context = RequestContext(headers=dict(headers), received=received, route=path.decode())
        try:
            self._authentication.check(context.route, port, context)
            context.inference = endpoint.read_head(context, query)
            if context.inference.parameters is not None:
                self._core.prepare(context.inference)
        except Overloaded as error:
            return self._refuse(context, error, begun)
        except RequestError:  # the usual way finds and reports it again
            pass
        return b""

    def _refuse(self, context: RequestContext, error: Overloaded, begun: float) -> bytes:
        self._log.begin(context)
        response = render_for(context, error)
        self._log.end("POST", context.route, context, _STATUS, time.perf_counter() - begun)
        headers = [*response.raw_headers, (b"x-request-id", context.request_id.encode("latin-1"))]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self._core.shedding.loop_load.note_refusal(time.perf_counter() - begun)
        return b"".join((b"HTTP/1.1 429 Too Many Requests\r\n", *lines, b"\r\n", response.body))

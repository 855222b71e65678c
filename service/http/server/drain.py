"""The server: uvicorn with our own signal handlers, so that no accepted request is lost at the end.

SIGTERM ─▶ not ready, still serving ─(grace)─▶ listener closes ─▶ accepted work finishes ─▶ exit 0
SIGINT ──────────────────────────────────────────▶ (skips the grace; a second one skips the rest)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from service.http.server.acceptor import Acceptor
from service.http.server.listeners import operations_port, stop_connections
from service.http.server.protocol import BoundedProtocol
from service.http.server.turns import LoopTurns
from service.lifecycle import Lifecycle
from service.settings import Settings

_SETTLE_SECONDS = 0.25  # for requests on connections that were accepted just before the listener closed
_FLUSH_SECONDS = 3

_log = logging.getLogger(__name__)


def serve(
    app: FastAPI,
    settings: Settings,
    listeners: list[socket.socket],
    server_class: type[DrainingServer] | None = None,
) -> None:
    """Serve until a signal ends the process.

    Args:
        app: The application.
        settings: Everything that an operator can set.
        listeners: The main one first.
        server_class: By default a server that does not share the listeners.
    """
    app.state.operations_port = operations_port(listeners)
    bounds = {
        "head_timeout_seconds": settings.body_timeout_seconds,
        "turns": LoopTurns(),
        "count_unread": staticmethod(app.state.count_unread_request),
        "check_early": app.state.early_refusal.check,
    }
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=type("Protocol", (BoundedProtocol,), bounds),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=_FLUSH_SECONDS,
    )
    server = (server_class or DrainingServer)(config, app.state.lifecycle, app, settings)
    server.run(sockets=listeners)


def _always(_: int) -> bool:
    return True


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains before it ends."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, app: FastAPI, settings: Settings
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._app = app
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections with our own acceptors."""
        await super().startup([])
        for number, listener in enumerate(sockets or ()):
            admit = self.has_room if number == 0 else _always  # probes get in whatever the load
            self.servers.append(self.make_acceptor(listener, admit))  # type: ignore[arg-type]

    def make_acceptor(self, listener: socket.socket, admit: Callable[[int], bool]) -> Acceptor:
        """Return what accepts on a listener."""
        return Acceptor(listener, self.make_protocol, admit)

    def has_room(self, starting: int) -> bool:
        """Return whether another connection may stay open; count it where it may not.

        Args:
            starting: Connections that were accepted and are not in the server's state yet.
        """
        if len(self.server_state.connections) + starting < self._settings.max_connections:
            return True
        self._app.state.count_refused_connection()
        return False

    def make_protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replace uvicorn's signal handlers, which would stop accepting at once."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._on_terminate, signal.SIGINT: self._on_interrupt}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, finish accepted requests within the limit, and fail the others."""
        loop = asyncio.get_running_loop()
        self._lifecycle.draining = True
        for listener in sockets or ():
            stop_connections(listener)
        await asyncio.sleep(_SETTLE_SECONDS)  # accept all who have connected
        for server in self.servers:
            server.close()
        limit = loop.time() + self._settings.drain_limit_seconds
        await asyncio.sleep(_SETTLE_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections and loop.time() < limit and not self.force_exit:
            await asyncio.sleep(0.05)
        self._lifecycle.closed = True
        self._app.state.catalog.close("the server is shutting down")
        await super().shutdown(sockets)
        _log.info("drained")

    def _on_terminate(self) -> None:
        if not self._lifecycle.draining:
            self._lifecycle.draining = True
            grace = self._settings.drain_grace_seconds
            _log.info("draining: still serving for %g s", grace)
            asyncio.get_running_loop().call_later(grace, self._stop)

    def _on_interrupt(self) -> None:
        self.force_exit = self.should_exit or self._lifecycle.draining
        self._lifecycle.draining = True
        self._stop()

    def _stop(self) -> None:
        self.should_exit = True

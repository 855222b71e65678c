"""The sockets that the service accepts on."""

from __future__ import annotations

import logging
import socket

from service.errors import StartFailed
from service.settings import Settings

_log = logging.getLogger(__name__)


def open_listeners(settings: Settings) -> list[socket.socket]:
    """Listen: on the main port first, then on the operations port if it is another one.

    Raises:
        StartFailed: An address cannot be listened on.
    """
    ports = [settings.port] if settings.operations_port is None else [settings.port, settings.operations_port]
    listeners = [_listen(settings.host, port) for port in ports]
    host, port = listeners[0].getsockname()[:2]
    _log.info(
        "listening on http://%s:%d",
        f"[{host}]" if ":" in host else host,
        port,
        extra={"port": port, "operations_port": operations_port(listeners)},
    )
    return listeners


def operations_port(listeners: list[socket.socket]) -> int | None:
    """Tell the operations port, if it is one of its own."""
    port: int | None = listeners[1].getsockname()[1] if len(listeners) > 1 else None
    return port


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StartFailed(f"cannot listen on {host}:{port}: {error.strerror}") from error

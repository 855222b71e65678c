"""The sockets that the service accepts on."""

from __future__ import annotations

import ctypes
import logging
import socket
import struct

from service.errors import StartFailed
from service.settings import Settings

_SO_ATTACH_FILTER = 26  # Linux, asm-generic/socket.h
# Classic BPF (Linux, networking/filter): a packet that opens a connection is dropped, all others pass.
_NO_NEW_CONNECTIONS = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the TCP header's byte of flags
        (0x45, 0, 1, 0x02),  # SYN?
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass
    )
)

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


def stop_connections(listener: socket.socket) -> None:
    """Stop new connections, while those that wait can still be accepted.

    Closing a listener resets connections that wait to be accepted, although their clients may have sent a
    request. On other systems than Linux this does nothing, and that risk stays.
    """
    program = ctypes.create_string_buffer(_NO_NEW_CONNECTIONS, len(_NO_NEW_CONNECTIONS))
    instructions = len(_NO_NEW_CONNECTIONS) // struct.calcsize("HBBI")
    try:
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HP", instructions, ctypes.addressof(program)),
        )
    except OSError as error:
        _log.debug("connections cannot be stopped before the listener is closed: %s", error)


def operations_port(listeners: list[socket.socket]) -> int | None:
    """Return the operations port; None if there is no separate one."""
    port: int | None = listeners[1].getsockname()[1] if len(listeners) > 1 else None
    return port


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StartFailed(f"cannot listen on {host}:{port}: {error.strerror}") from error

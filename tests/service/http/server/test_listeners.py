"""The sockets that the service accepts on."""

from __future__ import annotations

import socket
import sys

import pytest

from service.http.server.listeners import stop_connections


@pytest.mark.skipif(
    sys.platform != "linux", reason="Linux can stop connections before the listener is closed"
)
def test_who_has_connected_is_accepted_and_nobody_connects_any_more() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as early,
        socket.socket() as late,
    ):
        stop_connections(listener)
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(listener.getsockname())
        early.sendall(b"asked before")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(100) == b"asked before"
            listener.settimeout(0.0)
            with pytest.raises(BlockingIOError):
                listener.accept()
            accepted.sendall(b"answered")
        assert early.recv(100) == b"answered"

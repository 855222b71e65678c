"""The supervisor's channel: messages arrive complete and with their descriptors."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from service.multiprocess.supervisor_channel import Message, receive, send


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    both = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield both
    for end in both:
        end.close()


def test_a_message_arrives_with_its_descriptors(ends: tuple[socket.socket, socket.socket]) -> None:
    supervisor, process = ends
    reader, writer = os.pipe()
    send(supervisor, "connect", "some text", (reader,))
    message = receive(process)
    assert message[:2] == ("connect", "some text")
    os.write(writer, b"x")
    assert os.read(message.descriptors[0], 1) == b"x"
    for descriptor in (reader, writer, *message.descriptors):
        os.close(descriptor)


def test_the_last_message_of_a_process_with_unread_messages_arrives(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    supervisor, process = ends
    supervisor.setblocking(False)
    send(supervisor, "connect")
    send(process, "failed", "there is no such device")
    process.close()
    assert receive(supervisor) == Message("failed", "there is no such device", [])
    assert receive(supervisor).kind == ""


def test_a_message_to_a_process_that_is_gone_is_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    supervisor, process = ends
    process.close()
    send(supervisor, "log_level", "debug")
    assert receive(supervisor).kind == ""

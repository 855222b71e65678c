"""The channel's messages: whole, with their descriptors, and none lost when the other side ends."""

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
    send(supervisor, "link", "some text", (reader,))
    message = receive(process)
    assert message[:2] == ("link", "some text")
    os.write(writer, b"x")
    assert os.read(message.descriptors[0], 1) == b"x"
    for descriptor in (reader, writer, *message.descriptors):
        os.close(descriptor)


def test_the_last_words_of_a_process_that_left_messages_unread_are_heard(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    supervisor, process = ends
    supervisor.setblocking(False)
    send(supervisor, "link")
    send(process, "failed", "there is no such device")
    process.close()
    assert receive(supervisor) == Message("failed", "there is no such device", [])
    assert receive(supervisor).word == ""


def test_what_cannot_be_sent_is_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    supervisor, process = ends
    process.close()
    send(supervisor, "level", "debug")
    assert receive(supervisor).word == ""

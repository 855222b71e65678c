"""Tokens over a socket: none lost, none torn, whatever the socket's buffer does."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence

from service.multiprocess.token_socket import Kind, Token, TokenSocket
from tests.service.multiprocess.joined import until

MANY = 5000


def link_of(
    end: socket.socket, received: list[Token], lost: Callable[[], None] = lambda: None
) -> TokenSocket:
    def on_tokens(tokens: Sequence[Token]) -> None:
        received.extend(tokens)

    return TokenSocket(end.detach(), on_tokens, lost)


async def test_tokens_arrive_in_order_though_the_reader_sleeps() -> None:
    near, far = socket.socketpair()
    received: list[Token] = []
    sender = link_of(near, [])
    for number in range(MANY):  # far more than a socket's buffer holds, before anybody reads
        sender.send([Token(Kind.SUBMIT, number, 2**40 + number, number)])
    reader = link_of(far, received)
    await until(lambda: len(received) == MANY)
    assert received == [Token(Kind.SUBMIT, number, 2**40 + number, number) for number in range(MANY)]
    sender.close()
    reader.close()


async def test_tokens_of_many_threads_all_arrive() -> None:
    near, far = socket.socketpair()
    received: list[Token] = []
    sender, reader = link_of(near, []), link_of(far, received)

    def send(first: int) -> None:
        for number in range(first, MANY, 4):
            sender.send([Token(Kind.CANCEL, number)])

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    await until(lambda: len(received) == MANY)
    assert sorted(token.pending for token in received) == list(range(MANY))
    for first in range(4):
        own = [token.pending for token in received if token.pending % 4 == first]
        assert own == sorted(own)
    for thread in threads:
        thread.join()
    sender.close()
    reader.close()


async def test_a_torn_token_is_put_together() -> None:
    near, far = socket.socketpair()
    received: list[Token] = []
    reader = link_of(far, received)
    copy, watch = socket.socketpair()
    writer = link_of(copy, [])
    writer.send([Token(Kind.DONE, 7, 8, 9)])
    data = watch.recv(1000)
    for byte in data:
        near.send(bytes([byte]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await until(lambda: bool(received))
    assert received == [Token(Kind.DONE, 7, 8, 9)]
    for end in (reader, writer):
        end.close()
    near.close()
    watch.close()


async def test_the_loss_of_the_other_side_is_told_once() -> None:
    near, far = socket.socketpair()
    told: list[str] = []
    link = link_of(near, [], lambda: told.append("lost"))
    far.close()
    await until(lambda: bool(told))
    link.send([Token(Kind.CANCEL, 1)])  # nobody to send it to
    link.close()
    assert told == ["lost"]


async def test_a_side_that_hangs_up_itself_is_not_told() -> None:
    near, far = socket.socketpair()
    told: list[str] = []
    link = link_of(near, [], lambda: told.append("lost"))
    link.close()
    far.close()
    await asyncio.sleep(0.01)
    assert not told

"""Tokens over a socket: none is lost or torn, however little the socket's buffer takes."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence

from service.multiprocess.token_socket import Kind, Token, TokenSocket
from tests.service.multiprocess.connection_pair import until

MANY = 5000


def token_socket_of(
    end: socket.socket, received: list[Token], on_disconnect: Callable[[], None] = lambda: None
) -> TokenSocket:
    def on_tokens(tokens: Sequence[Token]) -> None:
        received.extend(tokens)

    return TokenSocket(end.detach(), on_tokens, on_disconnect)


async def test_tokens_arrive_in_order_although_the_reader_is_late() -> None:
    near, far = socket.socketpair()
    received: list[Token] = []
    sender = token_socket_of(near, [])
    for number in range(MANY):  # far more than a socket's buffer holds, before anybody reads
        sender.send([Token(Kind.SUBMIT, number, 2**40 + number, number)])
    reader = token_socket_of(far, received)
    await until(lambda: len(received) == MANY)
    assert received == [Token(Kind.SUBMIT, number, 2**40 + number, number) for number in range(MANY)]
    sender.close()
    reader.close()


async def test_tokens_of_several_threads_all_arrive() -> None:
    near, far = socket.socketpair()
    received: list[Token] = []
    sender, reader = token_socket_of(near, []), token_socket_of(far, received)

    def send(first: int) -> None:
        for number in range(first, MANY, 4):
            sender.send([Token(Kind.CANCEL, number)])

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    await until(lambda: len(received) == MANY)
    assert sorted(token.request for token in received) == list(range(MANY))
    for first in range(4):
        own = [token.request for token in received if token.request % 4 == first]
        assert own == sorted(own)
    for thread in threads:
        thread.join()
    sender.close()
    reader.close()


async def test_a_token_that_arrives_in_pieces_is_put_together() -> None:
    near, far = socket.socketpair()
    received: list[Token] = []
    reader = token_socket_of(far, received)
    copy, watch = socket.socketpair()
    writer = token_socket_of(copy, [])
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


async def test_the_end_of_the_other_side_is_reported_once() -> None:
    near, far = socket.socketpair()
    disconnects: list[str] = []
    tokens = token_socket_of(near, [], lambda: disconnects.append("lost"))
    far.close()
    await until(lambda: bool(disconnects))
    tokens.send([Token(Kind.CANCEL, 1)])  # nobody to send it to
    tokens.close()
    assert disconnects == ["lost"]


async def test_a_socket_closed_by_its_owner_is_not_reported() -> None:
    near, far = socket.socketpair()
    disconnects: list[str] = []
    tokens = token_socket_of(near, [], lambda: disconnects.append("lost"))
    tokens.close()
    far.close()
    await asyncio.sleep(0.01)
    assert not disconnects

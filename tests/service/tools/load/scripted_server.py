"""A small HTTP server with scripted answers, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

Respond = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


def answer(status: int = 200, body: bytes = b"{}", *headers: str) -> bytes:
    """Return a response."""
    head = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


async def says_ok(_: int, writer: asyncio.StreamWriter) -> None:
    writer.write(answer())


class ScriptedServer:
    """Answers the n-th request, counted from 0 over all connections, by calling `respond(n, writer)`."""

    def __init__(self, respond: Respond) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.serving: set[asyncio.Task[None] | None] = set()
        self.writers: list[asyncio.StreamWriter] = []
        self._respond = respond

    async def listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        self.writers.append(writer)
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                number = len(self.requests)
                self.requests.append(head + await reader.readexactly(length))
                await self._respond(number, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@contextmanager
def scripted(respond: Respond = says_ok) -> Iterator[ScriptedServer]:
    """Serve for the length of a block."""
    scripted_server = ScriptedServer(respond)
    loop = scripted_server.loop
    server = loop.run_until_complete(scripted_server.listen())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def end() -> None:
        # A connection that was just accepted has no task yet that could be cancelled; wait until it has one.
        while asyncio.all_tasks() - scripted_server.serving - {asyncio.current_task()}:
            await asyncio.sleep(0)
        server.close()
        tasks = asyncio.all_tasks() & scripted_server.serving
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in scripted_server.writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)  # a transport closes in a later turn of the loop

    try:
        yield scripted_server
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

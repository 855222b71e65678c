"""What the kernel knows of a service's processes, and clients that notice every lost request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any


def children(parent: int) -> dict[str, int]:
    """Find a supervisor's processes: process ids by name (`engine`, `http-0`, …), zombies left out."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # gone in between
            state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z":
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                if "service.multiprocess" in words:
                    found[words[-2]] = int(folder.name)
    return found


def is_alive(pid: int) -> bool:
    """Tell whether any thread of a process is there, and not only its corpse.

    The first thread of a killed process may be a corpse while others still hold its sockets.
    """
    try:
        return any(_runs(thread) for thread in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return False


def _runs(thread: Path) -> bool:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] not in "XZ"
    except OSError:
        return False


def kill(pid: int) -> set[int]:
    """Kill a process at a stroke.

    Returns:
        The ports of the clients whose connections it had accepted.
    """
    os.kill(pid, signal.SIGSTOP)  # from here on it accepts nothing more
    ports = client_ports(pid)
    os.kill(pid, signal.SIGKILL)
    return ports


def client_ports(pid: int) -> set[int]:
    """Find the ports of the clients whose connections a process has accepted."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    ports = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in sockets:
            ports.add(int(fields[2].rpartition(":")[2], 16))
    return ports


class Clients:
    """Clients that each post one thing again and again, on connections of their own.

    They stop when told to, and leave when the server asks them to close the connection.

    Attributes:
        statuses: Answers, by status.
        lost_ports: Local ports of connections that broke before their answer had come.
        refusals: Answers that were no 200, with their headers.
        wrong: Answers of status 200 that were not the expected ones.
    """

    def __init__(self, url: str, route: str, body: bytes, expected: object, count: int = 8) -> None:
        self.statuses: Counter[int] = Counter()
        self.lost_ports: list[int] = []
        self.refusals: list[tuple[str, Any]] = []
        self.wrong: list[object] = []
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._message = head.encode() + body
        self._expected = expected
        self._over = False
        self._tasks = [asyncio.create_task(self._visit()) for _ in range(count)]

    async def stop(self) -> None:
        """Let every client get its last answer."""
        self._over = True
        await self.leave()

    async def leave(self) -> None:
        """Wait until the server has sent every client away."""
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def more(self, answers: int) -> None:
        """Wait for so many more answers of status 200."""
        wanted = self.statuses[200] + answers
        async with asyncio.timeout(60):
            while self.statuses[200] < wanted:
                await asyncio.sleep(0.01)

    async def _visit(self) -> None:
        is_welcome = True
        while is_welcome and not self._over:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            port: int = writer.get_extra_info("sockname")[1]
            try:
                while is_welcome and not self._over:
                    writer.write(self._message)
                    is_welcome = await self._read_answer(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.lost_ports.append(port)
            finally:
                writer.close()

    async def _read_answer(self, reader: asyncio.StreamReader) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        status = int(head.split()[1])
        self.statuses[status] += 1
        if status != 200:
            self.refusals.append((head, answer))
        elif answer["results"] != self._expected:
            self.wrong.append(answer)
        return "connection: close" not in head

"""The clients of the soak: good and bad requests, impossible deadlines, and some that hang up.

Every client draws what to ask next, says which answers are right for it, and counts what it saw. What is
sent only in part, or not waited for, is counted apart: nobody but the server knows what became of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson

from benchmarks.workloads import FORM_TYPE, Workload, form, post
from service.tools.load.connection import BROKEN, Connection

PATIENCE_SECONDS = 60.0
MAX_BODY_BYTES = 2**20
_THINK_SECONDS = 0.02
_JSON = "application/json"
_PICTURE_TASKS = ("image-classification", "object-detection")
_GOOD = frozenset({200, 429, 504})  # on a busy machine a good request may be refused, or too late


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        kind: For the count.
        right: Statuses that are right answers.
        part: How much of it is sent; all of it where it is 1.
        hangs_up: Whether the client goes away without an answer.
    """

    kind: str
    request: bytes
    right: frozenset[int]
    part: float = 1.0
    hangs_up: bool = False


@dataclass(slots=True)
class Seen:
    """What all clients saw.

    Attributes:
        statuses: Answers.
        kinds: Requests by kind, and of each kind the answers by status.
        wrong: Descriptions of answers that are not right; the first few.
        gone: Requests that were sent whole and not waited for; `cut` those that were sent in part.
        items: Items in the answers with status 200.
        stuck: Requests without an answer within a minute.
        broken: Connections that ended without an answer.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    wrongs: int = 0
    gone: int = 0
    cut: int = 0
    items: int = 0
    stuck: int = 0
    broken: int = 0


Draw = Callable[[random.Random], Ask]


def asks(workloads: Sequence[Workload]) -> Draw:
    """Build the mixture.

    Returns:
        A function that draws one request: 60% good, a tenth of them with several items; 20% bad; 10% with a
        deadline between nothing and 50 ms; 10% that hang up.
    """
    good = [Ask("good", request, _GOOD) for w in workloads for request in w.requests()]
    several = [ask for workload in workloads for ask in _several(workload)]
    bad = _bad(workloads)

    def draw(drawn: random.Random) -> Ask:
        dice = drawn.random()
        if dice < 0.54 or (dice < 0.6 and not several):
            return drawn.choice(good)
        if dice < 0.6:
            return drawn.choice(several)
        if dice < 0.8:
            return drawn.choice(bad)
        workload = drawn.choice(workloads)
        if dice < 0.9:
            timeout = f"{drawn.uniform(0.01, 50):.3f}"
            return Ask("deadline", drawn.choice(workload.requests(X_Timeout_Ms=timeout)), _GOOD)
        part = drawn.choice((1.0, 1.0, 0.99))
        return Ask("hang-up", drawn.choice(workload.requests()), frozenset(), part, hangs_up=True)

    return draw


async def visit(port: int, draw: Draw, seen: Seen, until: float, seed: int) -> None:
    """Be one client until a moment of the monotonic clock."""
    drawn = random.Random(seed)
    connection: Connection | None = None
    while time.monotonic() < until:
        ask = draw(drawn)
        if ask.hangs_up:
            await _hang_up(port, ask, seen, drawn)
            continue
        if connection is None or not connection.is_open:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        await _ask(connection, ask, seen)
        await asyncio.sleep(drawn.expovariate(1 / _THINK_SECONDS))
    if connection is not None:
        connection.close()


async def _ask(connection: Connection, ask: Ask, seen: Seen) -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def done(_: Connection, status: int) -> None:
        if not answer.done():
            answer.set_result(status)

    connection.ask(ask.request, done)
    try:
        status = await asyncio.wait_for(answer, PATIENCE_SECONDS)
    except TimeoutError:
        seen.stuck += 1
        connection.close()
        return
    if status == BROKEN:
        seen.broken += 1
        return
    seen.statuses[status] += 1
    seen.kinds[ask.kind, status] += 1
    if status == 200:
        answered = orjson.loads(connection.body)
        seen.items += len(answered.get("results", answered.get("data", ())))
    if status not in ask.right:
        seen.wrongs += 1
        if len(seen.wrong) < 20:
            seen.wrong.append(f"{ask.kind}: {status} {connection.body[:200]!r} to {ask.request[:200]!r}")


async def _hang_up(port: int, ask: Ask, seen: Seen, drawn: random.Random) -> None:
    """Send a request, or most of one, and go away after up to 20 ms."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ask.request[: max(1, int(len(ask.request) * ask.part) - (ask.part < 1))])
    await writer.drain()
    if ask.part < 1:
        seen.cut += 1
    else:
        seen.gone += 1
    await asyncio.sleep(drawn.uniform(0, 0.02))
    writer.close()


def _several(workload: Workload) -> list[Ask]:
    """Ask several items in one request, in JSON or as a form."""
    if workload.task == "text-embedding":
        body = orjson.dumps({"input": [item.decode() for item in workload.items[:8]]})
        return [Ask("several", post("/v1/embeddings?model=" + workload.name, body, _JSON, {}), _GOOD)]
    path = f"/v1/{workload.task}?model={workload.name}"
    if workload.is_text:
        body = orjson.dumps({"inputs": [item.decode() for item in workload.items[:8]]})
        return [Ask("several", post(path, body, _JSON, {}), _GOOD)]
    return [Ask("several", post(path, form(*workload.items[:8]), FORM_TYPE, {}), _GOOD)]


def _bad(workloads: Sequence[Workload]) -> list[Ask]:
    """List requests that must be refused, each with the statuses that are right."""
    made = []

    def add(right: set[int], path: str, body: bytes, kind: str = "", **headers: object) -> None:
        request = post(path, body, kind or "application/octet-stream", headers)
        made.append(Ask("bad", request, frozenset(right)))

    for workload in workloads:
        path = "/v1/embeddings" if workload.task == "text-embedding" else f"/v1/{workload.task}"
        here = f"{path}?model={workload.name}"
        json = workload.task == "text-embedding"
        item = orjson.dumps({"input": workload.items[0].decode()}) if json else workload.items[0]
        kind = _JSON if json else "text/plain" if workload.is_text else ""
        add({400}, here, b"", kind)
        add({400, 415}, here, b"\xff\xfe junk \x80\x81", kind)
        add({404}, f"{path}?model=nobody", item, kind)
        add({404}, f"{here}&version=99", item, kind)
        add({422}, f"{here}&nonsense=1", item, kind)
        add({422}, here, item, kind, X_Timeout_Ms="soon")
        add({415}, here, item, kind, Content_Encoding="gzip")
        add({413}, here, bytes(MAX_BODY_BYTES + 1), kind)
        if not json:
            add({400}, here, b'{"inputs": [', _JSON)
            add({400, 422}, here, b'{"outputs": 1}', _JSON)
        if not workload.is_text:
            add({400, 415}, here, form(workload.items[0], b"junk"), FORM_TYPE)
        if workload.task in _PICTURE_TASKS:  # a sound that is cut off is a shorter sound
            add({400}, here, workload.items[0][: len(workload.items[0]) // 3])
    add({404}, "/v1/nothing", b"x")
    made.append(Ask("bad", b"GET /v1/image-classification HTTP/1.1\r\nHost: x\r\n\r\n", frozenset({405})))
    return made

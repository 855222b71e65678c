"""Mixed traffic for the soak and the dashboards: good and bad requests, short deadlines, closed connections.

Each client draws its next request at random, knows which answers are right for it, and counts what it gets.
Requests that are sent in part or not awaited are counted apart, because only the server knows how they ended.
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
from service.tools.load.connection import BROKEN, ClientConnection

TIMEOUT_SECONDS = 60.0
MAX_BODY_BYTES = 2**20
_JSON = "application/json"
_IMAGE_TASKS = ("image-classification", "object-detection")
_GOOD = frozenset({200, 429, 504})  # on a busy machine a good request may be refused or late


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its right answers.

    Attributes:
        kind: For the counts.
        expected: Statuses that are right.
        sent_share: Share of the request that is sent.
        hangs_up: Whether the client closes the connection without waiting for the answer.
    """

    kind: str
    request: bytes
    expected: frozenset[int]
    sent_share: float = 1.0
    hangs_up: bool = False


@dataclass(slots=True)
class Observed:
    """What all clients observed.

    Attributes:
        statuses: Answers by status.
        kinds: Answers by kind of request and status.
        wrong: Descriptions of the first wrong answers; `wrong_count` counts all of them.
        abandoned: Requests that were sent completely and not awaited.
        truncated: Requests that were sent in part.
        items: Items in answers with status 200.
        unanswered: Requests that timed out.
        broken: Connections that ended without an answer.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0
    abandoned: int = 0
    truncated: int = 0
    items: int = 0
    unanswered: int = 0
    broken: int = 0


Draw = Callable[[random.Random], Exchange]


def mixture(
    workloads: Sequence[Workload],
    *,
    several: float = 0.06,
    bad: float = 0.2,
    short_deadline: float = 0.1,
    hang_up: float = 0.1,
) -> Draw:
    """Return a function that draws a request.

    Args:
        workloads: Models and their items.
        several: Share of requests with several items.
        bad: Share of requests that must be refused.
        short_deadline: Share of requests with a deadline of up to 50 ms.
        hang_up: Share of requests whose client closes the connection at once.
    """
    one = [Exchange("good", request, _GOOD) for workload in workloads for request in workload.requests()]
    some = [several_items(workload, workload.items[:8]) for workload in workloads]
    wrong = _bad(workloads)

    def with_deadline(random_: random.Random) -> Exchange:
        timeout = f"{random_.uniform(0.01, 50):.3f}"
        requests = random_.choice(workloads).requests(X_Timeout_Ms=timeout)
        return Exchange("deadline", random_.choice(requests), _GOOD)

    def hanging_up(random_: random.Random) -> Exchange:
        share = random_.choice((1.0, 1.0, 0.99))
        request = random_.choice(random_.choice(workloads).requests())
        return Exchange("hang-up", request, frozenset(), share, hangs_up=True)

    choices: list[Draw] = [
        lambda random_: random_.choice(one),
        lambda random_: random_.choice(some),
        lambda random_: random_.choice(wrong),
        with_deadline,
        hanging_up,
    ]
    shares = [1 - several - bad - short_deadline - hang_up, several, bad, short_deadline, hang_up]
    return lambda random_: random_.choices(choices, shares)[0](random_)


async def run_client(
    port: int, draw: Draw, observed: Observed, until: float, seed: int, *, pause_seconds: float = 0.02
) -> None:
    """Send requests until a time of the monotonic clock, with random pauses of this mean between them."""
    random_ = random.Random(seed)
    connection: ClientConnection | None = None
    while time.monotonic() < until:
        exchange = draw(random_)
        if exchange.hangs_up:
            await _hang_up(port, exchange, observed, random_)
            continue
        if connection is None or not connection.is_open:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(ClientConnection, "127.0.0.1", port)
        await _exchange(connection, exchange, observed)
        await asyncio.sleep(random_.expovariate(1 / pause_seconds))
    if connection is not None:
        connection.close()


async def _exchange(connection: ClientConnection, exchange: Exchange, observed: Observed) -> None:
    try:
        status = await asyncio.wait_for(connection.request(exchange.request), TIMEOUT_SECONDS)
    except TimeoutError:
        observed.unanswered += 1
        connection.close()
        return
    if status == BROKEN:
        observed.broken += 1
        return
    observed.statuses[status] += 1
    observed.kinds[exchange.kind, status] += 1
    if status == 200:
        answer = orjson.loads(connection.body)
        observed.items += len(answer.get("results", answer.get("data", ())))
    if status not in exchange.expected:
        observed.wrong_count += 1
        if len(observed.wrong) < 20:
            observed.wrong.append(
                f"{exchange.kind}: {status} {connection.body[:200]!r} to {exchange.request[:200]!r}"
            )


async def _hang_up(port: int, exchange: Exchange, observed: Observed, random_: random.Random) -> None:
    """Send a request, or most of it, and close the connection after up to 20 ms."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    share = exchange.sent_share
    writer.write(exchange.request[: max(1, int(len(exchange.request) * share) - (share < 1))])
    await writer.drain()
    if share < 1:
        observed.truncated += 1
    else:
        observed.abandoned += 1
    await asyncio.sleep(random_.uniform(0, 0.02))
    writer.close()


def several_items(workload: Workload, items: Sequence[bytes]) -> Exchange:
    """Return a request with several items, as JSON or as a form."""
    path = f"/v1/{workload.task}?model={workload.name}"
    body, media_type = form(*items), FORM_TYPE
    if workload.is_text:
        texts, media_type = [item.decode() for item in items], _JSON
        body = orjson.dumps({"inputs": texts})
        if workload.task == "text-embedding":
            path, body = f"/v1/embeddings?model={workload.name}", orjson.dumps({"input": texts})
    return Exchange("several", post(path, body, media_type, {}), _GOOD)


def _bad(workloads: Sequence[Workload]) -> list[Exchange]:
    """Return requests that must be refused."""
    made = []

    def add(expected: set[int], path: str, body: bytes, kind: str = "", **headers: object) -> None:
        request = post(path, body, kind or "application/octet-stream", headers)
        made.append(Exchange("bad", request, frozenset(expected)))

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
        if workload.task in _IMAGE_TASKS:  # a truncated sound is a valid, shorter sound
            add({400}, here, workload.items[0][: len(workload.items[0]) // 3])
    add({404}, "/v1/nothing", b"x")
    made.append(
        Exchange("bad", b"GET /v1/image-classification HTTP/1.1\r\nHost: x\r\n\r\n", frozenset({405}))
    )
    return made

"""The engine and HTTP over their limits: the device alone for raw pixels, the cores alone for JPEGs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.gpu import asking
from benchmarks.gpu.decoding import decode_rate
from benchmarks.gpu.engine_load import engine, engine_rate
from benchmarks.gpu.loads import closed_loops
from benchmarks.gpu.model_folder import MODEL, write_choice
from benchmarks.gpu.networks import PRECISIONS
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.stage import Stage
from benchmarks.gpu.usage import Usage, metered
from benchmarks.servers import Server, kotae

ENGINE_PART = "Engine, single items"
SWEEP_PART = "HTTP, workers swept"
HTTP_PART = "HTTP"

ENGINE_GOAL = 0.90  # over the device alone
RAW_GOAL = 30_000  # images per second with one H200 and 16 cores
SEVERAL_GOAL = 0.80  # 8 pictures a request, over the device alone
JPEG_GOAL = 0.85  # over the cores decoding and nothing else
SEVERAL = 8
_START_SECONDS = 20.0  # of a server
_BESIDE_SECONDS = 120.0  # reserved for the comparison with the limits


@dataclass(frozen=True, slots=True)
class Question:
    """One kind of request.

    Attributes:
        images: Images in each request.
        clients: Number of clients.
    """

    name: str
    requests: Sequence[bytes]
    images: int
    clients: int
    is_jpeg: bool = False


def measure_engine(stage: Stage) -> None:
    """Measure the engine and the device alone in turn, in both precisions."""
    plan = stage.plan
    for precision in PRECISIONS:
        bare = stage.ceiling(precision)
        in_flight = 3 * bare.items
        rows = stage.resnet.batch(in_flight + 1)["image"]
        overrides = write_choice(stage.root, precision, bare.items)
        with engine(stage.root / "models", MODEL, stage.device, overrides) as queue:
            feed = partial(engine_rate, queue, rows, "image")
            ours = partial(feed, in_flight=in_flight, seconds=plan.seconds)
            ours()  # the first batches choose kernels
            with metered() as usage:
                ours()
            pairs = plan.measure(ours, partial(bare.rate, plan.seconds))
        note = f"batches of {bare.items}; {_limit(plan, usage)}"
        goal = stage.goal(ENGINE_GOAL) if precision == "fp16" else None
        stage.results.add(ENGINE_PART, precision, [a for a, _ in pairs], "items/s", note=note)
        what = f"{precision} over the device alone"
        stage.results.add(ENGINE_PART, what, [a / b for a, b in pairs], "times", goal=goal)


def measure_http(stage: Stage) -> None:
    """Try several numbers of HTTP workers, then measure the best one and the limits in turn."""
    plan, bare = stage.plan, stage.ceiling("fp16")
    overrides = write_choice(stage.root, "fp16", bare.items)
    files = asking.jpegs(4 if plan.quick else 1024, 160 if plan.quick else 500)
    best: dict[str, tuple[float, int]] = {}
    for workers in plan.workers:
        if best and plan.left < _BESIDE_SECONDS:
            stage.results.skip(SWEEP_PART, f"{workers} workers", "the time is needed for the comparison")
            continue
        with _server(stage, workers, overrides) as server:
            for question in _questions(stage, server, files, bare.items):
                rate, usage = _watched(stage, server, question)
                what = f"{workers} workers, {question.name}"
                stage.results.add(SWEEP_PART, what, [rate], "items/s", note=_limit(plan, usage))
                best[question.name] = max(best.get(question.name, (0.0, 0)), (rate, workers))
    decode = partial(decode_rate, _written(files, stage.root), stage.side, plan.seconds, plan.service)
    for workers in sorted({count for _, count in best.values()}):
        with _server(stage, workers, overrides) as server:
            for question in _questions(stage, server, files, bare.items):
                if best[question.name][1] == workers:
                    ceiling = decode if question.is_jpeg else partial(bare.rate, plan.seconds)
                    _beside(stage, server, question, workers, ceiling)


def _written(files: Sequence[bytes], root: Path) -> Path:
    """Write files into a folder of their own."""
    folder = root / "jpegs"
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / f"{number:04}.jpg").write_bytes(file)
    return folder


def _beside(
    stage: Stage,
    server: Server,
    question: Question,
    workers: int,
    ceiling: Callable[[], float],
) -> None:
    """Measure one kind of request and its limit in turn."""
    _, usage = _watched(stage, server, question)
    pairs = stage.plan.measure(partial(_rate, stage, server, question), ceiling)
    name, add = question.name, partial(stage.results.add, HTTP_PART)
    note = f"{workers} workers; {_limit(stage.plan, usage)}"
    goal = stage.goal(RAW_GOAL) if question.images == 1 and not question.is_jpeg else None
    add(name, [a for a, _ in pairs], "items/s", goal=goal, note=note)
    what = "its cores decoding" if question.is_jpeg else "the device alone"
    add(f"{what}, beside {name}", [b for _, b in pairs], "items/s")
    wanted = JPEG_GOAL if question.is_jpeg else SEVERAL_GOAL if question.images > 1 else None
    goal = stage.goal(wanted) if wanted else None
    add(f"{name} over {what}", [a / b for a, b in pairs], "times", goal=goal)


def _questions(stage: Stage, server: Server, files: Sequence[bytes], batch: int) -> Iterator[Question]:
    """Yield the kinds of requests, with enough clients for one running batch and two waiting ones."""
    plan, clients = stage.plan, 3 * batch
    as_tensors = asking.takes_tensors(server)
    kind = "raw tensor" if as_tensors else "BMP"
    if not as_tensors:
        reason = f"this service has no {asking.TENSOR_ROUTE}; BMP files, raw but for a header, stand for it"
        if not any(line.part == SWEEP_PART and line.what == "raw tensor" for line in stage.results.lines):
            stage.results.skip(SWEEP_PART, "raw tensor", reason)
    images = asking.pixels(2 * max(clients, SEVERAL * len(plan.load)), stage.side)
    for count in (1, SEVERAL):
        requests = asking.raw_requests(images, count, as_tensors=as_tensors)
        at_once = max(len(plan.load), clients // count)
        yield Question(f"{kind}, {count} a request", requests, count, at_once)
    at_once = min(clients, len(files) // 2)
    yield Question("JPEG, 1 a request", asking.jpeg_requests(files), 1, at_once, is_jpeg=True)


def _watched(stage: Stage, server: Server, question: Question) -> tuple[float, Usage]:
    with metered(server.process.pid, stage.plan.seconds) as usage:
        rate = _rate(stage, server, question)
    return rate, usage


def _rate(stage: Stage, server: Server, question: Question) -> float:
    """Put a load on the server; return images per second."""
    plan = stage.plan
    answers = closed_loops(server.port, question.requests, question.clients, plan.seconds, plan.load)
    return answers * question.images


@contextmanager
def _server(stage: Stage, workers: int, overrides: Path) -> Iterator[Server]:
    settings = {"device": stage.device, "http_workers": workers, "overrides": overrides}
    stage.plan.require(_START_SECONDS)
    with kotae([stage.workload], stage.plan.service, log=stage.root / "service.log", **settings) as server:
        yield server


def _limit(plan: Plan, usage: Usage) -> str:
    return usage.text(len(plan.service), len(plan.load))

"""The `kotae bench` command: options in, a load, a table or JSON out."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.errors import StartFailed
from service.tools.load.generator import Generator, ask_once
from service.tools.load.plan import Address, Plan
from service.tools.load.tally import Summary, Tally, summarise

_EMBEDDINGS = "/v1/embeddings"
_ROUTES = {"text-embedding": _EMBEDDINGS}  # tasks whose route is not their name
_LATE_GENERATOR_MS = 1.0
_TIMES = ("p50", "p90", "p99", "p99.9", "mean", "max")


@dataclass(frozen=True, slots=True)
class Question:
    """What every request asks.

    Attributes:
        url: The service, or one of its routes.
        task: Route by task name; None where the URL or `route` says it.
        deadline_ms: Sent as `X-Timeout-Ms`; None leaves it to the model.
    """

    url: str
    task: str | None = None
    route: str | None = None
    model: str | None = None
    files: Sequence[Path] = ()
    texts: Sequence[str] = ()
    deadline_ms: float | None = None
    priority: int | None = None
    key: str | None = None

    def requests(self) -> tuple[Address, tuple[bytes, ...]]:
        """Write the requests.

        Raises:
            StartFailed: No route or nothing to send, or a file that cannot be read.
        """
        address = Address.of(self.url)
        if self.task and self.route:
            raise StartFailed("give a task or a route, not both")
        task_route = _ROUTES.get(self.task or "", f"/v1/{self.task}")
        path = self.route or (task_route if self.task else address.path)
        if path == "/":
            raise StartFailed("say what to ask: --task image-classification, --route /v1/… or a longer URL")
        bodies = [(_read(file), _media_type(file)) for file in self.files]
        bodies += [_text_body(path, text) for text in self.texts]
        if not bodies:
            raise StartFailed("say what to send: --file photo.jpg or --text 'a sentence'")
        if self.model:
            path += ("&" if "?" in path else "?") + f"model={self.model}"
        headers = self._headers()
        return address, tuple(
            address.request(body, {"Content-Type": media_type, **headers}, path)
            for body, media_type in bodies
        )

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": "kotae-bench"}
        if self.deadline_ms is not None:
            headers["X-Timeout-Ms"] = f"{self.deadline_ms:g}"
        if self.priority is not None:
            headers["X-Priority"] = str(self.priority)
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers


def run_load(plan: Plan, console: Console) -> Summary:
    """Check that the service answers, make the load and show a progress bar meanwhile.

    Raises:
        StartFailed: Nobody answers, or the first answer says that the request itself is wrong.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for request in plan.requests[:16]:
            status, body = runner.run(ask_once(plan, request))
            if status not in (200, 429, 504):
                text = body.decode(errors="replace")[:300]
                raise StartFailed(f"the service answers {status} to such a request: {text}")
        tally = Tally(plan.deadline_seconds)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("", total=plan.seconds)

            def show(elapsed: float) -> None:
                progress.update(bar, completed=elapsed, description=f"{tally.answered} answers")

            seconds = runner.run(Generator(plan, tally, show).run())
    return summarise(tally, seconds)


def print_summary(summary: Summary, console: Console) -> None:
    """Print what a load found."""
    rates = Table("requests", "offered/s", "answered/s", "in deadline/s", "late", *summary.statuses)
    rates.add_row(
        str(summary.requests),
        f"{summary.offered_rate:.1f}",
        f"{summary.answered_rate:.1f}",
        f"{summary.goodput:.1f}",
        str(summary.late),
        *map(str, summary.statuses.values()),
    )
    console.print(rates)
    times = Table("milliseconds", *_TIMES)
    for name, values in (("answers", summary.latency_ms), ("refusals", summary.refusal_ms)):
        if values:
            times.add_row(name, *(f"{values[time]:.2f}" for time in _TIMES))
    console.print(times)
    lost = {"broken": summary.broken, "unanswered": summary.unanswered, "unsent": summary.unsent}
    for name, count in lost.items():
        if count:
            console.print(f"[red]{count} {name}")
    if summary.lag_ms.get("p99", 0) > _LATE_GENERATOR_MS:
        console.print(
            f"[yellow]the load itself left up to {summary.lag_ms['p99']:.1f} ms late (p99): "
            "latencies hold that too; this is more than one Python process on this core can send"
        )


def write_json(summary: Summary) -> str:
    """Give a summary as JSON."""
    return json.dumps(summary.as_json(), indent=2)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartFailed(f"{file} cannot be read: {error}") from error


def _text_body(path: str, text: str) -> tuple[bytes, str]:
    """Give body and media type of a text: as it is, but in OpenAI's shape where the route is theirs."""
    if path.partition("?")[0] == _EMBEDDINGS:
        return json.dumps({"input": text}).encode(), "application/json"
    return text.encode(), "text/plain"


def _media_type(file: Path) -> str:
    return mimetypes.guess_type(file.name)[0] or "application/octet-stream"

"""The `kotae bench` command: builds requests from options, runs the load, prints a table or JSON."""

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
from service.tools.load.generator import LoadGenerator, send_once
from service.tools.load.plan import LoadPlan, TargetAddress
from service.tools.load.results import LoadRecorder, LoadSummary, summarise

_EMBEDDINGS = "/v1/embeddings"
_ROUTES = {"text-embedding": _EMBEDDINGS}  # tasks whose route is not their name
_LATE_GENERATOR_MS = 1.0
_TIMES = ("p50", "p90", "p99", "p99.9", "mean", "max")


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What the requests of a load have in common.

    Attributes:
        url: The service, or one of its routes.
        task: Selects the route by task name; None if the URL or `route` names it.
        files: Each is the body of a request.
        texts: The same.
        deadline_ms: Sent as `X-Timeout-Ms`; None is the model's own deadline.
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

    def requests(self) -> tuple[TargetAddress, tuple[bytes, ...]]:
        """Return the address and one request for each file and text.

        Raises:
            StartFailed: There is no route or nothing to send, or a file cannot be read.
        """
        address = TargetAddress.parse(self.url)
        if self.task and self.route:
            raise StartFailed("give a task or a route, not both")
        task_route = _ROUTES.get(self.task or "", f"/v1/{self.task}")
        path = self.route or (task_route if self.task else address.path)
        if path == "/":
            raise StartFailed("name a route: --task image-classification, --route /v1/… or a longer URL")
        bodies = [(_read(file), _media_type(file)) for file in self.files]
        bodies += [_text_body(path, text) for text in self.texts]
        if not bodies:
            raise StartFailed("name what to send: --file photo.jpg or --text 'a sentence'")
        if self.model:
            path += ("&" if "?" in path else "?") + f"model={self.model}"
        headers = self._headers()
        return address, tuple(
            address.post(body, {"Content-Type": media_type, **headers}, path) for body, media_type in bodies
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


def run_load(plan: LoadPlan, console: Console) -> LoadSummary:
    """Check that the service accepts the requests, run the load and show a progress bar.

    Raises:
        StartFailed: The service does not answer, or its answer says that a request is wrong.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for request in plan.requests[:16]:
            status, body = runner.run(send_once(plan, request))
            if status not in (200, 429, 504):
                text = body.decode(errors="replace")[:300]
                raise StartFailed(f"the service answers {status} to such a request: {text}")
        recorder = LoadRecorder(plan.deadline_seconds)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("", total=plan.seconds)

            def show(elapsed: float) -> None:
                progress.update(bar, completed=elapsed, description=f"{recorder.answered} answers")

            seconds = runner.run(LoadGenerator(plan, recorder, show).run())
    return summarise(recorder, seconds)


def print_summary(summary: LoadSummary, console: Console) -> None:
    """Print the results of a load as tables."""
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
            f"[yellow]requests were sent up to {summary.lag_ms['p99']:.1f} ms late (p99); latencies include "
            "this delay. The rate is more than one Python process can send on this core"
        )


def write_json(summary: LoadSummary) -> str:
    """Return a summary as JSON."""
    return json.dumps(summary.as_json(), indent=2)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartFailed(f"{file} cannot be read: {error}") from error


def _text_body(path: str, text: str) -> tuple[bytes, str]:
    """Return body and media type of a text: JSON for OpenAI's embeddings route, else plain text."""
    if path.partition("?")[0] == _EMBEDDINGS:
        return json.dumps({"input": text}).encode(), "application/json"
    return text.encode(), "text/plain"


def _media_type(file: Path) -> str:
    return mimetypes.guess_type(file.name)[0] or "application/octet-stream"

"""The fixed-window baseline: batches of up to 16 items within 5 ms, padded to the longest.

`python -m benchmarks.fixed_window_baseline PORT FOLDER[=GRAPH]… [--threads N]` serves and decodes as
`benchmarks.fastapi_baseline` does, with dynamic batching between decoding and graph.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, File, UploadFile
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

from benchmarks.fastapi_baseline import (
    Answer,
    Text,
    best_label,
    normalise,
    open_session,
    open_tokenizer,
    parse_model,
    read_pixels,
    text_answer,
)
from benchmarks.onnxruntime_baseline import Row, padded
from service.repository.manifest import VERSION_FILE, ImageInput, TextInput, VersionFacts, read
from service.tasks.classification import read_labels

MAX_ITEMS = 16
WINDOW_SECONDS = 0.005


class Window:
    """Collects items and runs them as a batch. The window opens with the first item.

    Args:
        session: The graph.
        max_items: A batch of this size runs at once.
        window_seconds: A batch runs no later than this after its first item.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        *,
        max_items: int = MAX_ITEMS,
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        self._session = session
        self._max_items = max_items
        self._window_seconds = window_seconds
        self._queue: asyncio.Queue[tuple[Row, asyncio.Future[NDArray[Any]]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def answer(self, row: Row) -> NDArray[Any]:
        """Return an item's row of the output."""
        future: asyncio.Future[NDArray[Any]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((row, future))
        return await future

    async def work(self) -> None:
        """Form batches and run them, one after the other."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            closes = loop.time() + self._window_seconds
            while len(batch) < self._max_items:
                try:
                    async with asyncio.timeout_at(closes):
                        batch.append(await self._queue.get())
                except TimeoutError:
                    break
            inputs = padded([row for row, _ in batch])
            rows = await loop.run_in_executor(self._thread, self._run, inputs)
            for (_, future), output in zip(batch, rows, strict=True):
                if not future.done():
                    future.set_result(output)

    def _run(self, inputs: Row) -> NDArray[Any]:
        rows: NDArray[Any] = self._session.run(None, inputs)[0]
        return rows


def fixed_window_app(models: Sequence[tuple[Path, Path]], threads: int = 0) -> FastAPI:
    """Build the application; see `benchmarks.fastapi_baseline.fastapi_app`."""
    windows: list[Window] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        workers = [asyncio.create_task(window.work()) for window in windows]
        yield
        for worker in workers:
            worker.cancel()

    app = FastAPI(lifespan=lifespan)
    for folder, graph in models:
        facts = read(folder / VERSION_FILE, VersionFacts)
        session = open_session(graph, threads)
        windows.append(Window(session))
        if isinstance(facts.input, ImageInput):
            _add_pictures(app, folder, facts, session, windows[-1])
        else:
            _add_texts(app, folder, facts, session, windows[-1])
    return app


def _add_pictures(
    app: FastAPI, folder: Path, facts: VersionFacts, session: ort.InferenceSession, window: Window
) -> None:
    spec, labels = facts.input, read_labels(folder, facts)
    assert isinstance(spec, ImageInput), "checked by the caller"
    takes_floats = session.get_inputs()[0].type == "tensor(float)"

    def decode(content: bytes) -> Row:
        pixels = read_pixels(content, spec)
        return {"image": (normalise(pixels) if takes_floats else pixels)[0]}

    @app.post(f"/predict/{folder.parent.name}")
    async def predict(file: Annotated[UploadFile, File()]) -> Answer:
        row = await run_in_threadpool(decode, await file.read())
        return best_label(await window.answer(row), labels)


def _add_texts(
    app: FastAPI, folder: Path, facts: VersionFacts, session: ort.InferenceSession, window: Window
) -> None:
    assert isinstance(facts.input, TextInput), "only pictures and texts are served"
    tokenizer = open_tokenizer(folder, facts.input)
    answer = text_answer(folder, facts, session)

    def decode(text: str) -> Row:
        ids = np.array(tokenizer.encode(text).ids, dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    @app.post(f"/predict/{folder.parent.name}")
    async def predict(body: Text) -> Answer:
        return answer(await window.answer(decode(body.text)))


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("models", nargs="+", type=parse_model)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    app = fixed_window_app(options.models, options.threads)
    uvicorn.run(app, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

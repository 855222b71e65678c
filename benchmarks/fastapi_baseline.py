"""The FastAPI baseline: one route and one session for each model, no batching.

`python -m benchmarks.fastapi_baseline PORT FOLDER[=GRAPH]… [--threads N] [--limit-concurrency N]` serves
version folders at `/predict/NAME`. Pictures come as a form and go through Pillow and float32; texts come as
JSON. GRAPH takes float32 pictures; without it the folder's own graph gets bytes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, File, UploadFile
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel
from tokenizers import Tokenizer

from benchmarks.graphs import DEVIATION, MEAN
from service.repository.manifest import VERSION_FILE, ImageInput, TextInput, VersionFacts, read
from service.tasks.classification import read_labels

Answer = dict[str, object]


class Text(BaseModel):
    """The body of a text request."""

    text: str


def open_session(graph: Path, threads: int) -> ort.InferenceSession:
    """Open a graph with this number of threads; 0 is ONNX Runtime's default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def read_pixels(content: bytes, spec: ImageInput) -> NDArray[np.uint8]:
    """Decode a picture and scale it: u8 [1, height, width, channels]."""
    picture = Image.open(io.BytesIO(content)).convert("L" if spec.channels == 1 else "RGB")
    picture = picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels.reshape(1, spec.height, spec.width, spec.channels)


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale u8 [N, H, W, 3] to f32 [N, 3, H, W] with ImageNet's mean and deviation."""
    scaled = (pixels.astype(np.float32) / 255.0 - np.array(MEAN, np.float32)) / np.array(
        DEVIATION, np.float32
    )
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def best_label(probabilities: NDArray[np.float32], labels: Sequence[str]) -> Answer:
    """Return the best label for f32 [K]."""
    best = int(probabilities.argmax())
    return {"label": labels[best], "score": float(probabilities[best])}


def add_pictures(app: FastAPI, name: str, folder: Path, graph: Path, threads: int) -> None:
    """Serve a picture classifier."""
    facts = read(folder / VERSION_FILE, VersionFacts)
    spec = facts.input
    assert isinstance(spec, ImageInput) and spec.resize == "stretch", "the baseline stretches pictures"
    labels = read_labels(folder, facts)
    session = open_session(graph, threads)
    takes_floats = session.get_inputs()[0].type == "tensor(float)"

    @app.post(f"/predict/{name}")
    def predict(file: Annotated[UploadFile, File()]) -> Answer:
        pixels = read_pixels(file.file.read(), spec)
        image = normalise(pixels) if takes_floats else pixels
        (probabilities,) = session.run(None, {"image": image})
        return best_label(probabilities[0], labels)


def text_answer(
    folder: Path, facts: VersionFacts, session: ort.InferenceSession
) -> Callable[[NDArray[Any]], Answer]:
    """Return a function from a row of the output to an answer: a label or a vector."""
    if session.get_outputs()[0].name == "embedding":
        return lambda row: {"embedding": row.tolist()}
    labels = read_labels(folder, facts)
    return lambda row: best_label(row, labels)


def open_tokenizer(folder: Path, spec: TextInput) -> Tokenizer:
    """Open a version's tokenizer."""
    tokenizer = Tokenizer.from_file(str(folder / spec.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(spec.max_tokens)
    return tokenizer


def add_texts(app: FastAPI, name: str, folder: Path, graph: Path, threads: int) -> None:
    """Serve a text classifier or encoder."""
    facts = read(folder / VERSION_FILE, VersionFacts)
    assert isinstance(facts.input, TextInput), "the baseline serves only pictures and texts"
    tokenizer = open_tokenizer(folder, facts.input)
    session = open_session(graph, threads)
    answer = text_answer(folder, facts, session)

    @app.post(f"/predict/{name}")
    def predict(body: Text) -> Answer:
        ids = np.array([tokenizer.encode(body.text).ids], dtype=np.int64)
        (rows,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return answer(rows[0])


def fastapi_app(models: Sequence[tuple[Path, Path]], threads: int = 0) -> FastAPI:
    """Build the application.

    Args:
        models: Version folders and the graphs to run.
        threads: ONNX Runtime's threads a session; 0 is its own choice.
    """
    app = FastAPI()
    for folder, graph in models:
        facts = read(folder / VERSION_FILE, VersionFacts)
        add = add_pictures if isinstance(facts.input, ImageInput) else add_texts
        add(app, folder.parent.name, folder, graph, threads)
    return app


def parse_model(text: str) -> tuple[Path, Path]:
    """Read FOLDER or FOLDER=GRAPH."""
    folder, _, graph = text.partition("=")
    if graph:
        return Path(folder), Path(graph)
    facts = read(Path(folder) / VERSION_FILE, VersionFacts)
    return Path(folder), Path(folder) / facts.variants[0].file


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("models", nargs="+", type=parse_model)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--limit-concurrency", type=int)
    options = parser.parse_args()
    app = fastapi_app(options.models, options.threads)
    limit = options.limit_concurrency
    uvicorn.run(app, port=options.port, log_level="warning", access_log=False, limit_concurrency=limit)


if __name__ == "__main__":
    main()

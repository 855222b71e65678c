"""The reference models as complete model folders, and their items. Made once and cached.

    cache/reference-HASH/
      models/NAME/{model.yaml,1/…}    for Kotae, pixels in as bytes
      baseline/NAME.onnx              the same weights, float32 pictures in, for the baselines
      payloads/NAME/…                 pictures, or texts.json

On one core of 2026: `tiny` takes about 0.03 ms a picture and so shows the cost of everything but the network;
`small` and `resnet18` take about 2 and 17 ms; `minilm`, a text encoder, takes 4 to 6 ms a sentence.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
from numpy.typing import NDArray

from benchmarks import graphs, payloads
from benchmarks.machine import cache_folder
from service.engine.runtime.session import Device, Session
from service.repository.golden import write_golden_arrays
from service.repository.manifest import (
    GOLDEN_CASES_FILE,
    MANIFEST_FILE,
    VERSION_FILE,
    Batching,
    GoldenCase,
    GoldenCases,
    ImageInput,
    ModelManifest,
    Provenance,
    TextInput,
    Variant,
    VersionFacts,
    sha256_of,
    write,
)
from service.tasks import TASKS, Limits, answer_one

GRAPH_FILE = "model.onnx"
_PICTURES = 256  # more than are ever in flight: equal pictures in flight would share one execution
_DEADLINE_SECONDS = 60.0  # of requests without one


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture classifier: a function from `as_floats` to its graph, and the size of its JPEG files."""

    build: Callable[[bool], onnx.ModelProto]
    size: int
    classes: int
    jpeg_width: int
    max_items: int


def pictures(*, small: bool) -> Mapping[str, Picture]:
    """List the picture classifiers.

    Args:
        small: Make them next to nothing, to test the wiring.
    """
    width, side = (8, 64) if small else (64, 224)
    return {
        "tiny": Picture(lambda floats: graphs.tiny_image(as_floats=floats), 32, 10, 64, 64),
        "small": Picture(
            lambda floats: graphs.resnet18(size=64, width=width, as_floats=floats), 64, 1000, 160, 32
        ),
        "resnet18": Picture(
            lambda floats: graphs.resnet18(size=side, width=width, as_floats=floats), side, 1000, 500, 16
        ),
    }


def encoder_size(*, small: bool) -> graphs.EncoderSize:
    """Return the size of `minilm`."""
    if small:
        return graphs.EncoderSize(layers=1, width=32, heads=2, inner=64, vocabulary=2000)
    return graphs.EncoderSize()


@cache
def reference_folder(*, small: bool = False) -> Path:
    """Return the folder of the reference models; build it unless it is cached for this code.

    Args:
        small: Make the networks next to nothing, to test the wiring.
    """
    code = (
        b"".join(Path(str(m.__file__)).read_bytes() for m in (graphs, payloads)) + Path(__file__).read_bytes()
    )
    name = f"reference-{hashlib.sha256(code).hexdigest()[:12]}{'-small' if small else ''}"
    target = cache_folder() / name
    if target.exists():
        return target
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        for folder in ("models", "baseline", "payloads"):
            (draft / folder).mkdir()
        photographs = list(payloads.photographs(500, 375, 2 if small else _PICTURES))
        for name, picture in pictures(small=small).items():
            _write_picture_model(draft, name, picture, photographs)
        texts = 50 if small else 400
        _write_text_model(draft, "minilm", encoder_size(small=small), texts)
        if not target.exists():
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write_picture_model(
    root: Path, name: str, picture: Picture, photographs: Sequence[NDArray[np.uint8]]
) -> None:
    folder = new_version(root, name)
    payload_folder = root / "payloads" / name
    payload_folder.mkdir()
    for number, pixels in enumerate(photographs):
        (payload_folder / f"{number}.jpg").write_bytes(payloads.jpeg(pixels, picture.jpeg_width))
    onnx.save(picture.build(False), folder / GRAPH_FILE)
    onnx.save(picture.build(True), root / "baseline" / f"{name}.onnx")
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(picture.classes)))
    shape = (3, picture.size, picture.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    finish_version(
        folder,
        ModelManifest(
            name=name,
            task="image-classification",
            batching=Batching(max_items=picture.max_items, max_queue_items=4096),
            deadline_seconds=_DEADLINE_SECONDS,
        ),
        {"image": images},
        ("0.jpg", (payload_folder / "0.jpg").read_bytes()),
        input=ImageInput(width=picture.size, height=picture.size),
        labels="labels.txt",
    )


def _write_text_model(root: Path, name: str, size: graphs.EncoderSize, count: int) -> None:
    folder = new_version(root, name)
    payload_folder = root / "payloads" / name
    payload_folder.mkdir()
    tokens = payloads.vocabulary(size.vocabulary)
    tokenizer = payloads.tokenizer(tokens, payloads.LONGEST)
    tokenizer.save(str(folder / "tokenizer.json"))
    texts = payloads.texts(tokens, count, seed=0)
    (payload_folder / "texts.json").write_text(json.dumps(texts))
    onnx.save(graphs.text_encoder(size), folder / GRAPH_FILE)
    encoded = [tokenizer.encode(text).ids for text in texts[:3]]
    longest = max(map(len, encoded))
    ids = np.array([row + [0] * (longest - len(row)) for row in encoded])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in encoded])
    finish_version(
        folder,
        ModelManifest(
            name=name,
            task="text-embedding",
            batching=Batching(max_items=32, max_cost=8192, max_queue_items=4096),
            deadline_seconds=_DEADLINE_SECONDS,
        ),
        {"input_ids": ids, "attention_mask": mask},
        ("0.txt", texts[0].encode()),
        input=TextInput(max_tokens=size.positions),
    )


def new_version(root: Path, name: str) -> Path:
    """Create the folder of a model's version 1 below `models` and return it."""
    folder = root / "models" / name / "1"
    (folder / "golden").mkdir(parents=True)
    return folder


def finish_version(
    folder: Path,
    manifest: ModelManifest,
    inputs: Mapping[str, NDArray[Any]],
    golden: tuple[str, bytes],
    **facts: object,
) -> None:
    """Write manifest, golden answers (from the graph itself) and facts."""
    write(folder.parent / MANIFEST_FILE, manifest)
    session = Session(folder / GRAPH_FILE, Device("cpu"))
    outputs = session.run(inputs)
    write_golden_arrays(folder, inputs, outputs)
    (folder / "golden" / golden[0]).write_bytes(golden[1])
    draft = _facts(folder, outputs, facts)
    task = TASKS[manifest.task](folder, draft)
    result = answer_one(task, session.run, golden[1], Limits(), task.parameters())
    answer = orjson.loads(orjson.dumps(result, option=orjson.OPT_SERIALIZE_NUMPY))
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(GoldenCase(file=golden[0], answer=answer),)))
    write(folder / VERSION_FILE, _facts(folder, outputs, facts))


def _facts(folder: Path, outputs: Mapping[str, NDArray[Any]], fields: Mapping[str, object]) -> VersionFacts:
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return VersionFacts.model_validate(
        {
            "created": datetime(2026, 1, 1, tzinfo=UTC),
            "provenance": Provenance(command="python -m benchmarks", data="random weights", seed=0),
            "variants": (Variant(file=GRAPH_FILE, tolerance=dict.fromkeys(outputs, 1e-4)),),
            "files": files,
            **fields,
        }
    )

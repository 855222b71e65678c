"""Tiny model folders, made without torch: a linear classifier of 8 × 8 grey images with a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

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
    Variant,
    VersionFacts,
    sha256_of,
    write,
)
from service.tasks.classification import classify
from service.tasks.image.preprocessing import decode_image

SIZE = 8
LABELS = ("zero", "one", "two", "three")
SPEC = ImageInput(width=SIZE, height=SIZE, channels=1)

Facts = Callable[[VersionFacts], VersionFacts]


def weights(seed: int = 0) -> NDArray[np.float32]:
    """f32 [SIZE*SIZE, 4], as large as gives scores away from 0 and 1."""
    drawn: NDArray[np.float64] = np.random.default_rng(seed).normal(0, 0.5, (SIZE * SIZE, len(LABELS)))
    return drawn.astype(np.float32)


def probabilities(pixels: NDArray[np.uint8], seed: int = 0) -> NDArray[np.float32]:
    """What the tiny graph answers, in NumPy: u8 [N, 8, 8, 1] -> f32 [N, 4]."""
    logits = pixels.reshape(len(pixels), -1).astype(np.float32) / 255 @ weights(seed)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)


def picture(seed: int, *, size: int = SIZE, format: str = "PNG") -> bytes:
    """An image file of grey noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def tiny_graph(seed: int = 0, output: str = "probabilities") -> onnx.ModelProto:
    """The graph: scale, flatten, one linear layer, softmax."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [output], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 1])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", len(LABELS)])],
        [
            numpy_helper.from_array(weights(seed), "weights"),
            numpy_helper.from_array(np.array(255, dtype=np.float32), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def make_model(
    repository: Path, name: str = "tiny", *, version: int = 1, seed: int = 0, **manifest: object
) -> Path:
    """Write a complete, valid model folder.

    Args:
        manifest: Fields of the manifest to set, beside name and task.

    Returns:
        The version's folder.
    """
    folder = repository / name / str(version)
    (folder / "golden").mkdir(parents=True)
    fields = {"batching": Batching(max_items=8), "deadline_seconds": 20.0, **manifest}
    write(folder.parent / MANIFEST_FILE, ModelManifest(name=name, task="image-classification", **fields))
    onnx.save(tiny_graph(seed), folder / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    pixels = np.random.default_rng(7).integers(0, 256, (5, SIZE, SIZE, 1), dtype=np.uint8)
    write_golden_arrays(folder, {"image": pixels}, {"probabilities": probabilities(pixels, seed)})
    raw = picture(1)
    (folder / "golden" / "noise.png").write_bytes(raw)
    scores = probabilities(decode_image(raw, SPEC, max_pixels=10**6)[np.newaxis], seed)[0]
    case = GoldenCase(file="noise.png", answer=dict(classify(scores, LABELS, 4)))
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(case,)))
    finish_version(folder)
    return folder


def finish_version(folder: Path, *, output: str = "probabilities", **facts: object) -> None:
    """Write `version.yaml` with the hashes of what is there now.

    Args:
        folder: The version's folder.
        output: The graph's output.
        facts: Fields of the facts to set; by default those of the tiny image model.
    """
    files = {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != VERSION_FILE
    }
    variants = (Variant(file="model.onnx", tolerance={output: 1e-4}),)
    fields = {"input": SPEC, "labels": "labels.txt", "variants": variants, **facts}
    document = VersionFacts(
        created=datetime(2026, 1, 1, tzinfo=UTC),
        provenance=Provenance(command="tests", data="noise", seed=0),
        files=files,
        **fields,
    )
    write(folder / VERSION_FILE, document)

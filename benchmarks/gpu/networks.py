"""The graphs, in both precisions: ResNet-50, a text encoder of MiniLM's size, a keyword spotter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import graphs
from training.core.fp16 import convert_to_fp16

Arrays = dict[str, NDArray[Any]]
PRECISIONS = ("fp32", "fp16")
TOKENS = 32  # per sentence


@dataclass(frozen=True, slots=True)
class Network:
    """A graph on disk.

    Attributes:
        paths: The file, by precision.
        batch: Returns the inputs of a number of items.
    """

    name: str
    paths: Mapping[str, Path]
    batch: Callable[[int], Arrays]


def image_size(*, small: bool) -> int:
    """Return the side of ResNet-50's pictures in pixels."""
    return 64 if small else 224


def build_networks(folder: Path, *, small: bool) -> dict[str, Network]:
    """Write all graphs into a folder.

    Args:
        folder: Two files of each graph are written to it.
        small: Whether to make them tiny, to test the benchmark itself.

    Returns:
        `resnet50`, `minilm` and `keywords`.
    """
    size, width = image_size(small=small), 8 if small else 64
    encoder = graphs.EncoderSize()
    if small:
        encoder = graphs.EncoderSize(layers=1, width=32, heads=2, inner=64, vocabulary=2000)
    vocabulary = encoder.vocabulary

    def pictures(items: int) -> Arrays:
        return {"image": _random(items).integers(0, 256, (items, size, size, 3), dtype=np.uint8)}

    def sentences(items: int) -> Arrays:
        ids = _random(items).integers(0, vocabulary, (items, TOKENS), dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def recordings(items: int) -> Arrays:
        return {"audio": _random(items).standard_normal((items, 16000), dtype=np.float32) / 4}

    return {
        name: Network(name, _write(folder, name, graph), batch)
        for name, graph, batch in (
            ("resnet50", graphs.resnet50(size=size, width=width), pictures),
            ("minilm", graphs.text_encoder(encoder, as_exported=True), sentences),
            ("keywords", graphs.keywords(width=width), recordings),
        )
    }


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _write(folder: Path, name: str, graph: onnx.ModelProto) -> dict[str, Path]:
    paths = {precision: folder / f"{name}.{precision}.onnx" for precision in PRECISIONS}
    onnx.save(graph, paths["fp32"])
    convert_to_fp16(paths["fp32"], paths["fp16"])
    return paths

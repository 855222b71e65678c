"""A version of a text model: graph, tokenizer, golden arrays and golden texts.

Letters in shapes: `N` batch, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from service.engine.runtime.session import Device, Session
from service.repository.golden import write_golden_arrays
from service.repository.manifest import (
    GoldenCase,
    ModelManifest,
    Provenance,
    TextInput,
    Variant,
    VersionFacts,
)
from service.tasks import TASKS
from training.core.card import CardText
from training.core.export import EXPORT_BATCH, PARITY_BATCHES, TOLERANCE, differences, write_graph
from training.core.version_folder import GRAPH_FILE, LABELS_FILE, hashes, write_golden_files
from training.text.tokens import Ids, pad

TEXT_CARD = CardText(
    "Measured on texts that the training did not see, from raw text to answer through ONNX Runtime."
)
GoldenText = tuple[GoldenCase, str]  # an answer, and the text that it is to
_EXPORT_TOKENS = 23
_EXTRA_PADDING = (0, 5, 1)  # columns of nothing but padding, one number a parity batch


@dataclass(frozen=True, slots=True)
class TextModel:
    """What a version of a text model is made from.

    Attributes:
        network: Takes ids and mask, i64 [N, T] each; gives the task's one output.
        labels: Of a classifier.
        unknown_below: Of a classifier.
    """

    manifest: ModelManifest
    input: TextInput
    network: nn.Module
    tokenizer: Tokenizer
    provenance: Provenance
    labels: tuple[str, ...] | None = None
    unknown_below: float | None = None


def write_files(folder: Path, model: TextModel, golden: Sequence[GoldenText]) -> VersionFacts:
    """Write every file of a version but `version.yaml`.

    Returns:
        What that will say, without figures.

    Raises:
        ExportFailed: The graph does not answer as PyTorch does.
    """
    task = model.manifest.task
    model.tokenizer.save(str(folder / model.input.tokenizer))
    if model.labels:
        (folder / LABELS_FILE).write_text("\n".join(model.labels) + "\n", encoding="utf-8")
    export_text_graph(model, folder / GRAPH_FILE)
    rows: list[Sequence[int] | Ids] = [
        model.tokenizer.encode(text).ids[: model.input.max_tokens] for _, text in golden
    ]
    rows += extreme_rows(model.tokenizer.get_vocab_size(), model.input.max_tokens)
    check_text_parity(model, folder / GRAPH_FILE, rows)
    ids, mask = pad(rows)
    inputs = {"input_ids": ids, "attention_mask": mask}
    write_golden_arrays(folder, inputs, run_text_network(model, ids, mask))
    write_golden_files(folder, [(case, text.encode()) for case, text in golden])
    return VersionFacts(
        created=datetime.now(UTC).replace(microsecond=0),
        provenance=model.provenance,
        input=model.input,
        labels=LABELS_FILE if model.labels else None,
        unknown_below=model.unknown_below,
        variants=(Variant(file=GRAPH_FILE, tolerance=dict.fromkeys(TASKS[task].outputs, TOLERANCE)),),
        files=hashes(folder),
    )


def export_text_graph(model: TextModel, path: Path) -> None:
    """Write the network with both axes dynamic."""
    # Two tensors: the exporter takes one that is given twice for one input.
    examples = tuple(torch.ones((EXPORT_BATCH, _EXPORT_TOKENS), dtype=torch.int64) for _ in range(2))
    items = torch.export.Dim("N", min=1)
    tokens = torch.export.Dim("T", min=1, max=model.input.max_tokens)
    shape: dict[int, object] = {0: items, 1: tokens}
    write_graph(model.network, model.manifest.task, examples, (shape, shape), path)


def check_text_parity(model: TextModel, path: Path, rows: Sequence[Sequence[int] | Ids]) -> None:
    """Compare ONNX Runtime with PyTorch at several batch sizes and lengths, none the exporting ones.

    Raises:
        ExportFailed: An output differs by more than the tolerance, or has another shape.
    """
    session = Session(path, Device("cpu"))
    for size, padding in zip(PARITY_BATCHES, _EXTRA_PADDING, strict=True):
        start = size % len(rows)
        ids, mask = (
            np.pad(array, ((0, 0), (0, padding)))
            for array in pad([rows[(start + i) % len(rows)] for i in range(size)])
        )
        got = session.run({"input_ids": ids, "attention_mask": mask})
        differences(run_text_network(model, ids, mask), got, f"a batch of {size} by {ids.shape[1]} tokens")


def run_text_network(model: TextModel, ids: Ids, mask: Ids) -> dict[str, NDArray[Any]]:
    """Run PyTorch on i64 [N, T] and i64 [N, T]; returns arrays by output name."""
    (output_name,) = TASKS[model.manifest.task].outputs
    return {output_name: network_answers(model.network, ids, mask)}


def network_answers(network: Callable[..., torch.Tensor], ids: Ids, mask: Ids) -> NDArray[np.float32]:
    """Run a network; returns its one output."""
    with torch.inference_mode():
        output: NDArray[np.float32] = network(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return output


def extreme_rows(vocabulary: int, most_tokens: int) -> list[Ids]:
    """Make token ids that no text gives: a single one, one repeated, every one, and a long row."""
    everything = np.arange(1, vocabulary, dtype=np.int64)
    random = np.random.default_rng(0)
    return [
        everything[:1],
        everything[-1:].repeat(7),
        everything[: min(300, most_tokens)],
        random.integers(1, vocabulary, min(512, most_tokens)).astype(np.int64),
    ]

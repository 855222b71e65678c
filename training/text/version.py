"""The files of a text model's version.

Letters in shapes: `N` batch, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from service.repository.manifest import GoldenCase, ModelManifest, Provenance, TextInput, VersionFacts
from service.tasks import TASKS
from training.core.export import EXPORT_BATCH, PARITY_BATCHES, TOLERANCE, Arrays, ExportInputs, export_network
from training.core.version_folder import LABELS_FILE, draft_facts, write_golden_files, write_labels
from training.text.tokens import Ids, pad

GoldenText = tuple[GoldenCase, str]  # a golden answer and its text
_EXPORT_TOKENS = 23
_EXTRA_PADDING = (0, 5, 1)  # columns of padding, one number per parity batch


@dataclass(frozen=True, slots=True)
class TextModel:
    """What a version of a text model is made from.

    Attributes:
        network: In evaluation mode; takes ids and mask, i64 [N, T] each; returns the task's one output.
        labels: Labels of a classifier.
        unknown_below: Threshold of a classifier.
    """

    manifest: ModelManifest
    input: TextInput
    network: nn.Module
    tokenizer: Tokenizer
    labels: tuple[str, ...] | None = None
    unknown_below: float | None = None

    def outputs(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Run PyTorch on raw texts; return its one output, f32 [N, …]."""
        ids, mask = pad([row.ids for row in self.tokenizer.encode_batch(list(texts))], self.input.max_tokens)
        with torch.inference_mode():
            output: NDArray[np.float32] = self.network(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            return output


def write_version(
    folder: Path, model: TextModel, golden: Sequence[GoldenText], provenance: Provenance
) -> VersionFacts:
    """Write every file of a version but `version.yaml`; return its content without metrics.

    Raises:
        ExportFailed: The graph does not answer as PyTorch does.
    """
    task = model.manifest.task
    model.tokenizer.save(str(folder / model.input.tokenizer))
    content: dict[str, Any] = {"input": model.input}
    if model.labels:
        write_labels(folder, model.labels)
        content |= {"labels": LABELS_FILE, "unknown_below": model.unknown_below}
    rows: list[Sequence[int] | Ids] = [
        model.tokenizer.encode(text).ids[: model.input.max_tokens] for _, text in golden
    ]
    rows += extreme_rows(model.tokenizer.get_vocab_size(), model.input.max_tokens)
    export_network(folder, model.network, task, export_inputs(rows, model.input.max_tokens))
    write_golden_files(folder, [(case, text.encode()) for case, text in golden])
    return draft_facts(folder, provenance, dict.fromkeys(TASKS[task].outputs, TOLERANCE), **content)


def export_inputs(rows: Sequence[Sequence[int] | Ids], max_tokens: int) -> ExportInputs:
    """Return inputs for a network that takes ids and mask.

    Args:
        rows: Token ids of some texts.
        max_tokens: Most tokens of a text.
    """
    items, tokens = torch.export.Dim("N", min=1), torch.export.Dim("T", min=1, max=max_tokens)
    shape: dict[int, object] = {0: items, 1: tokens}
    return ExportInputs(
        # Two tensors: the exporter would take the same tensor twice for one input.
        tuple(torch.ones((EXPORT_BATCH, _EXPORT_TOKENS), dtype=torch.int64) for _ in range(2)),
        (shape, shape),
        parity_batches(rows),
        _inputs(*pad(rows)),
    )


def parity_batches(rows: Sequence[Sequence[int] | Ids]) -> list[tuple[str, Arrays]]:
    """Return named batches of several sizes and lengths."""
    batches = []
    for size, padding in zip(PARITY_BATCHES, _EXTRA_PADDING, strict=True):
        ids, mask = (
            np.pad(array, ((0, 0), (0, padding)))
            for array in pad([rows[(size + i) % len(rows)] for i in range(size)])
        )
        batches.append((f"a batch of {size} by {ids.shape[1]} tokens", _inputs(ids, mask)))
    return batches


def _inputs(ids: Ids, mask: Ids) -> Arrays:
    return {"input_ids": ids, "attention_mask": mask}


def extreme_rows(vocabulary: int, most_tokens: int) -> list[Ids]:
    """Return unusual token ids: a single one, one repeated, every one, and a long row."""
    everything = np.arange(1, vocabulary, dtype=np.int64)
    random = np.random.default_rng(0)
    return [
        everything[:1],
        everything[-1:].repeat(7),
        everything[: min(300, most_tokens)],
        random.integers(1, vocabulary, min(512, most_tokens)).astype(np.int64),
    ]

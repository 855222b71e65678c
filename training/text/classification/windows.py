"""Batches of labelled texts: windows of random position and length.

A batch depends only on the seed and the number of its step, so that a resumed training continues with the
batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from training.recipes.text_recipe import Windows
from training.text.dataset import LabelledTexts
from training.text.tokens import byte_tokenizer, pad

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_UPPER, _LOWER = 0.05, 0.1  # shares of texts in upper case and in lower case


class WindowBatches(Dataset[Batch]):
    """Training batches by step number: labels equally often, similar lengths within a batch.

    Args:
        table: The texts.
        indices: Indices of the training part.
        windows: Lengths of windows; None takes whole texts.
        batch_size: Texts of a batch.
        most_tokens: Most tokens of a text.
        seed: Seed of the choice.
    """

    def __init__(
        self,
        table: LabelledTexts,
        indices: NDArray[np.int64],
        windows: Windows | None,
        *,
        batch_size: int,
        most_tokens: int,
        seed: int,
    ) -> None:
        self._table = table
        labels = table.labels[indices]
        self._by_label = [(label, indices[labels == label]) for label in np.unique(labels).tolist()]
        self._windows = windows
        self._batch_size = batch_size
        self._most = most_tokens
        self._seed = seed
        self._tokenizer = byte_tokenizer()

    def __getitem__(self, step: int) -> Batch:
        random = np.random.default_rng((self._seed, step))
        length = self._length(random)
        texts, labels = [], []
        for choice in random.integers(len(self._by_label), size=self._batch_size).tolist():
            label, indices = self._by_label[choice]
            text = self._table.texts[indices[random.integers(len(indices))]]
            texts.append(vary_case(cut_window(text, length, random), random) if length else text)
            labels.append(label)
        return encode_batch(self._tokenizer, texts, labels, self._most)

    def _length(self, random: np.random.Generator) -> int:
        """Return the characters of a batch's windows; 0 for whole texts, negative for the beginning."""
        windows = self._windows
        if windows is None:
            return 0
        if random.random() < windows.whole:
            return -windows.longest_whole
        low, high = np.log(windows.shortest), np.log(windows.longest)
        return int(np.exp(random.uniform(low, high)))


class FixedBatches(Dataset[Batch]):
    """Validation batches, sorted by length."""

    def __init__(self, texts: Sequence[str], labels: NDArray[np.int64], most_tokens: int) -> None:
        tokenizer = byte_tokenizer()
        order = np.argsort([len(text.encode()) for text in texts], kind="stable")
        self._batches = [
            encode_batch(tokenizer, [texts[i] for i in part], labels[part].tolist(), most_tokens)
            for part in np.array_split(order, -(-len(order) // 128))
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:
        return self._batches[number]


def cut_window(text: str, length: int, random: np.random.Generator) -> str:
    """Return a random window of a text, or all of a shorter one.

    Args:
        text: The text.
        length: Characters; if negative, the first ones of the text.
        random: Source of the position. A window of white space is drawn again.
    """
    if length < 0 or len(text) <= length:
        return text[: abs(length)]
    for _ in range(8):
        start = int(random.integers(len(text) - length + 1))
        window = text[start : start + length]
        if not window.isspace():
            return window
    return text[:length]


def vary_case(text: str, random: np.random.Generator) -> str:
    """Convert some texts to upper case, and some to lower case."""
    draw = random.random()
    if draw < _UPPER:
        return text.upper()
    return text.lower() if draw < _UPPER + _LOWER else text


def draw_windows(
    table: LabelledTexts, indices: NDArray[np.int64], length: int, seed: int
) -> tuple[list[str], NDArray[np.int64]]:
    """Draw one window from every text that is long enough, for evaluation.

    Returns:
        The windows, and the index of each one's text.
    """
    kept = np.array([i for i in indices.tolist() if len(table.texts[i]) >= length], dtype=np.int64)
    windows = [cut_window(table.texts[i], length, np.random.default_rng((seed, i))) for i in kept.tolist()]
    return windows, kept


def encode_batch(
    tokenizer: Tokenizer, texts: Sequence[str], labels: Sequence[int], most_tokens: int
) -> Batch:
    """Return `input_ids` and `attention_mask` i64 [N, T], and labels i64 [N]."""
    encodings = tokenizer.encode_batch(texts)
    ids, mask = pad([encoding.ids for encoding in encodings], most_tokens)
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.tensor(labels)

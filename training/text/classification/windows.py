"""Batches of labelled texts: windows of random place and length, each batch known by its number alone.

The batch of step 17 is the same in every run with the same seed, so that a resumed training goes on
with what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.utils.data import Dataset, Sampler

from training.recipes.text_recipes import Windows
from training.text.dataset import LabelledTexts
from training.text.tokens import byte_tokenizer, pad

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_SHOUTED, _LOWERED = 0.05, 0.1  # shares of texts in capitals, and without any


class StepNumbers(Sampler[int]):
    """The numbers of an epoch's steps, going on from epoch to epoch.

    Args:
        steps: Of an epoch.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[int]:
        # A generator begins when its first number is wanted, which is after the epoch was chosen.
        yield from range(self._epoch * self._steps, (self._epoch + 1) * self._steps)


class WindowBatches(Dataset[Batch]):
    """Training batches by step number: every label equally often, lengths alike within a batch.

    Args:
        table: The texts.
        indices: Which of them to learn from.
        windows: What to cut; None takes whole texts.
        batch_size: Texts of a batch.
        most_tokens: Most tokens of a text.
        seed: Of the choice.
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
        """Choose the characters of a batch's windows; 0 for whole texts, below that from the beginning."""
        wanted = self._windows
        if wanted is None:
            return 0
        if random.random() < wanted.whole:
            return -wanted.longest_whole
        low, high = np.log(wanted.shortest), np.log(wanted.longest)
        return int(np.exp(random.uniform(low, high)))


class FixedBatches(Dataset[Batch]):
    """Texts for validation, those of like length side by side."""

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
    """Cut a window of so many characters out of a text, or all of a shorter one.

    Args:
        text: Of any length.
        length: Characters; below 0, that many from the text's beginning.
        random: Where the place comes from. A window of nothing but white space is drawn again.
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
    """Write some texts in capitals, and some without any."""
    draw = random.random()
    if draw < _SHOUTED:
        return text.upper()
    return text.lower() if draw < _SHOUTED + _LOWERED else text


def draw_windows(
    table: LabelledTexts, indices: NDArray[np.int64], length: int, seed: int
) -> tuple[list[str], NDArray[np.int64]]:
    """Cut one window out of every text that is long enough, to be measured on.

    Returns:
        The windows, and the index of the text that each is of.
    """
    kept = np.array([i for i in indices.tolist() if len(table.texts[i]) >= length], dtype=np.int64)
    windows = [cut_window(table.texts[i], length, np.random.default_rng((seed, i))) for i in kept.tolist()]
    return windows, kept


def encode_batch(
    tokenizer: Tokenizer, texts: Sequence[str], labels: Sequence[int], most_tokens: int
) -> Batch:
    """Make `input_ids` and `attention_mask` i64 [N, T], and labels i64 [N]."""
    encodings = tokenizer.encode_batch(texts)
    ids, mask = pad([encoding.ids for encoding in encodings], most_tokens)
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.tensor(labels)

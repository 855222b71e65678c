"""Tokenizers in the service's format, and batches of their ids.

Letters in shapes: `N` batch, `T` tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PADDING = "[PAD]"  # token 0. No text can give it: it is no special token, and no pair of bytes makes it
UNKNOWN = "[UNK]"

Ids = NDArray[np.int64]


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer with one token per UTF-8 byte: 1 to 256, in the order of the alphabet."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {PADDING: 0, **{letter: number for number, letter in enumerate(letters, start=1)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train byte-pair encoding on lower-cased words (R. Sennrich et al. 2016, arXiv:1508.07909).

    Args:
        texts: The texts of the training part.
        vocabulary: Most tokens. They include all bytes, so every text has tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_padding(tokenizer)


def _with_padding(tokenizer: Tokenizer) -> Tokenizer:
    """Increase every token id by one, so that 0 is free for padding."""
    import json  # noqa: PLC0415

    content = json.loads(tokenizer.to_str())
    model = content["model"]
    model["vocab"] = {PADDING: 0, **{token: number + 1 for token, number in model["vocab"].items()}}
    content["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(content))


def pad(rows: Sequence[Sequence[int] | Ids], most: int | None = None) -> tuple[Ids, Ids]:
    """Return a padded batch of token ids.

    Args:
        rows: The ids of each text, not empty.
        most: Most tokens of a text; the rest is cut.

    Returns:
        `input_ids` i64 [N, T], 0 after the end of a text, and `attention_mask` i64 [N, T].
    """
    cut = [row[:most] for row in rows]
    longest = max(len(row) for row in cut)
    ids = np.zeros((len(cut), longest), dtype=np.int64)
    for number, row in enumerate(cut):
        ids[number, : len(row)] = row
    lengths = np.array([len(row) for row in cut])
    return ids, (np.arange(longest) < lengths[:, None]).astype(np.int64)

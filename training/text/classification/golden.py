"""Golden texts of a classifier: short validation texts that it answers rightly and surely."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from service.repository.manifest import GoldenCase
from service.tasks.classification import classify
from training.errors import ExportFailed
from training.text.classification.fit import LabelData
from training.text.tokens import pad
from training.text.version import GoldenText, TextModel, network_answers

_LONGEST = 300  # characters
_TRIED = 40  # texts of each label
_MOST = 24
_TOP = 3
_TOLERANCE = 0.01  # of a score


def choose_golden_texts(model: TextModel, data: LabelData) -> list[GoldenText]:
    """Choose the surest rightly answered text of each label.

    Raises:
        ExportFailed: The network answers none rightly.
    """
    assert model.labels is not None, "a classifier has labels"
    table = data.table
    chosen: list[tuple[str, str]] = []
    for label, name in enumerate(model.labels):
        members = [i for i in data.parts.validation.tolist() if table.labels[i] == label]
        texts = sorted((table.texts[i] for i in members), key=len)
        short = [text for text in texts if len(text) <= _LONGEST] or texts[:1]
        if short:
            rows = probabilities_of(model, short[-_TRIED:])
            best = int(np.argmax(np.where(rows.argmax(axis=1) == label, rows[:, label], -1)))
            if rows[best].argmax() == label:
                chosen.append((name, short[-_TRIED:][best]))
    if not chosen:
        raise ExportFailed("the network answers no validation text rightly: train it first")
    return [
        (
            GoldenCase(
                file=f"{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-') or 'label'}.txt",
                answer=dict(
                    classify(probabilities_of(model, [text])[0], model.labels, _TOP, model.unknown_below)
                ),
                tolerance=_TOLERANCE,
            ),
            text,
        )
        for number, (name, text) in enumerate(chosen[:_MOST], start=1)
    ]


def probabilities_of(model: TextModel, texts: list[str]) -> NDArray[np.float32]:
    """Classify texts with PyTorch; returns f32 [N, K]."""
    ids, mask = pad([row.ids for row in model.tokenizer.encode_batch(texts)], model.input.max_tokens)
    return network_answers(model.network, ids, mask)

"""Golden texts of a classifier: short validation texts with right answers of high probability."""

from __future__ import annotations

import numpy as np

from service.repository.manifest import GoldenCase
from service.tasks.classification import classify
from training.core.golden import golden_name
from training.errors import ExportFailed
from training.text.classification.fit import LabelledData
from training.text.version import GoldenText, TextModel

_LONGEST = 300  # characters
_TRIED = 40  # texts of each label
_MOST = 24
_TOP = 3
_TOLERANCE = 0.01  # of a score


def choose_golden_texts(model: TextModel, data: LabelledData) -> list[GoldenText]:
    """Choose the rightly answered text with the highest probability of each label.

    Raises:
        ExportFailed: The network answers no text rightly.
    """
    assert model.labels is not None, "a classifier has labels"
    table = data.table
    chosen: list[tuple[str, str]] = []
    for label, name in enumerate(model.labels):
        members = [i for i in data.parts.validation.tolist() if table.labels[i] == label]
        texts = sorted((table.texts[i] for i in members), key=len)
        short = [text for text in texts if len(text) <= _LONGEST] or texts[:1]
        if short:
            rows = model.outputs(short[-_TRIED:])
            best = int(np.argmax(np.where(rows.argmax(axis=1) == label, rows[:, label], -1)))
            if rows[best].argmax() == label:
                chosen.append((name, short[-_TRIED:][best]))
    if not chosen:
        raise ExportFailed("the network answers no validation text rightly: train it first")
    return [
        (
            GoldenCase(
                file=golden_name(number, name, ".txt", default="label"),
                answer=dict(classify(model.outputs([text])[0], model.labels, _TOP, model.unknown_below)),
                tolerance=_TOLERANCE,
            ),
            text,
        )
        for number, (name, text) in enumerate(chosen[:_MOST], start=1)
    ]

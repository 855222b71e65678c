"""Golden texts of a text encoder: short pairs of the validation part and their vectors."""

from __future__ import annotations

from service.repository.manifest import GoldenCase
from training.text.embedding.pairs import PairData
from training.text.version import GoldenText, TextModel

_GOLDEN_PAIRS = 3
_LONGEST = 400  # characters
_DIGITS = 5  # of each number
_TOLERANCE = 1e-3


def choose_golden_pairs(model: TextModel, data: PairData) -> list[GoldenText]:
    """Choose a few short pairs of different groups."""
    table = data.table
    short = [i for i in data.parts.validation.tolist() if len(table.documents[i]) <= _LONGEST]
    first = {table.groups[i]: i for i in reversed(short or data.parts.validation.tolist())}
    texts = [
        (f"{number:02d}-{kind}.txt", text)
        for number, i in enumerate(list(first.values())[:_GOLDEN_PAIRS], start=1)
        for kind, text in (("query", table.queries[i]), ("document", table.documents[i]))
    ]
    vectors = model.outputs([text for _, text in texts])
    return [
        (
            GoldenCase(
                file=name,
                answer={"embedding": [round(float(x), _DIGITS) for x in vector]},
                tolerance=_TOLERANCE,
            ),
            text,
        )
        for (name, text), vector in zip(texts, vectors, strict=True)
    ]

"""Classification after the graph, shared by image, audio and text: probabilities -> the best labels.

Array shapes: `N` batch, `K` classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import (
    Annotated,
    NotRequired,  # pydantic reads typing's own from Python 3.12 on
    cast,
)

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from service.errors import ModelRejected
from service.repository.manifest import VersionFacts
from service.tasks.task import Decoded, Outputs, Result, largest_differences

UNKNOWN = "unknown"


class Prediction(TypedDict):
    """A label and its probability, 0–1."""

    label: str
    score: float


class Classification(TypedDict):
    """The result of one item, best prediction first; `truncated` is present if a long item was cut."""

    predictions: list[Prediction]
    truncated: NotRequired[bool]


_MAX_SORTED_LABELS = 64  # more labels are partitioned first, which is faster than sorting them all
_CLASSIFICATION = TypeAdapter(Classification)


class ClassificationParameters(BaseModel):
    """Parameters of classification tasks.

    Attributes:
        top_k: Number of predictions to return; at most the number of labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: Annotated[int, Field(ge=1, description="How many predictions to return, best first.")] = 5


class Classifier:
    """The part of a classification task that runs after the graph.

    Raises:
        ModelRejected: The labels file is missing or invalid.
    """

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        self.labels = read_labels(folder, facts)
        self._unknown_below = facts.unknown_below

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Return the best labels by `probabilities` f32 [K]."""
        top_k = cast(ClassificationParameters, parameters).top_k
        result = classify(parts[0]["probabilities"], self.labels, top_k, self._unknown_below)
        if decoded.context.get("truncated"):
            result["truncated"] = True
        return cast(Result, result)

    def check_outputs(self, outputs: Outputs) -> None:
        """Check that there is one probability per label and that they add up to 1."""
        probabilities = outputs["probabilities"]
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.labels):
            raise ModelRejected(
                f"output probabilities has shape {list(probabilities.shape)} for {len(self.labels)} labels"
            )
        if (probabilities < -1e-3).any():
            raise ModelRejected("output probabilities has numbers below 0")
        worst = float(np.abs(probabilities.sum(axis=1) - 1.0).max(initial=0.0))
        if not worst < 1e-2:
            raise ModelRejected(f"output probabilities does not add up to 1: off by {worst:.3g}")

    def differences(self, expected: Outputs, got: Outputs) -> dict[str, float]:
        """Compare the probabilities number by number."""
        return largest_differences(expected, got)

    def agrees(self, expected: Result, got: Result, tolerance: float) -> str | None:
        """Compare the score of each expected label; the order of near ties does not matter."""
        try:
            wanted = _CLASSIFICATION.validate_python(expected)["predictions"]
        except ValidationError as error:
            return f"the expected answer is not a classification: {error.errors()[0]['msg']}"
        if not wanted:
            return "the expected answer has no prediction"
        scores = {p["label"]: p["score"] for p in cast(Classification, got)["predictions"]}
        for prediction in wanted:
            label, score = prediction["label"], prediction["score"]
            if label not in scores:
                return f"label {label!r} expected at {score:.4f} is not in the answer"
            if not abs(scores[label] - score) <= tolerance:
                return f"label {label!r} has score {scores[label]:.4f}, expected {score:.4f} ± {tolerance:g}"
        return None


def classify(
    probabilities: NDArray[np.float32],
    labels: tuple[str, ...],
    top_k: int,
    unknown_below: float | None = None,
) -> Classification:
    """Return the best labels.

    Args:
        probabilities: f32 [K].
        labels: K labels.
        top_k: Number of labels to return, at least 1.
        unknown_below: If the best probability is lower than this, the label `unknown` comes first. Its score
            is 1 minus the best probability.

    Returns:
        The best `top_k` labels, highest probability first; ties in the labels' order.
    """
    scores = probabilities.tolist()
    candidates: Iterable[int] = range(len(scores))
    if _MAX_SORTED_LABELS < len(scores) > top_k:
        candidates = np.flatnonzero(probabilities >= np.partition(probabilities, -top_k)[-top_k]).tolist()
    best = sorted(candidates, key=scores.__getitem__, reverse=True)[:top_k]
    predictions = [Prediction(label=labels[i], score=scores[i]) for i in best]
    if unknown_below is not None and predictions[0]["score"] < unknown_below:
        unknown = Prediction(label=UNKNOWN, score=1.0 - predictions[0]["score"])
        predictions = [unknown, *predictions][:top_k]
    return {"predictions": predictions}


def read_labels(folder: Path, facts: VersionFacts) -> tuple[str, ...]:
    """Return a version's labels, one per line of the file.

    Raises:
        ModelRejected: The file is missing, or has empty or duplicate lines.
    """
    if facts.labels is None:
        raise ModelRejected("version.yaml names no labels")
    try:
        text = (folder / facts.labels).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelRejected(f"{facts.labels} cannot be read: {error}") from error
    labels = tuple(text.removesuffix("\n").split("\n"))
    if len(set(labels)) != len(labels) or "" in labels:
        raise ModelRejected(f"{facts.labels} must have one label per line, without duplicates")
    return labels

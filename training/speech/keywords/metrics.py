"""Metrics of the keyword classifier: over files, by label and by slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sklearn.metrics import precision_recall_fscore_support

from training.core.slices import slices_of_kind
from training.errors import DataRejected
from training.speech.keywords.predict import KeywordPrediction

OTHERS = ("silence", "unknown")  # labels of sounds without a keyword
_MOST_MISTAKES = 12
_THRESHOLDS = (0.0, 0.5, 0.7, 0.9)


@dataclass(frozen=True, slots=True)
class Counted:
    """Number of files of a slice, and number of right answers."""

    files: int = 0
    right: int = 0

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / max(1, self.files)


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """Metrics of one label.

    Attributes:
        files: Files with this label.
        precision: Share of the files answered with the label that have it.
        recall: Share of the files with the label that were answered with it.
        f1: The harmonic mean of both.
    """

    files: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class ThresholdMetrics:
    """Metrics if answers `silence`, `unknown` or below a threshold count as no answer.

    Attributes:
        answered: Share of the files with a keyword that got an answer.
        right: Share of those answers that are right.
        mistaken: Share of the files `silence` or `unknown` that got an answer (false accepts).
    """

    answered: float
    right: float
    mistaken: float


@dataclass(frozen=True, slots=True)
class KeywordMetrics:
    """Metrics of the answers.

    Attributes:
        whole: Of all files.
        macro_f1: Mean of the labels' F1.
        slices: By trait of the files, `kind: value`.
        labels: By label, of the labels that files have.
        trusted: By threshold; empty if no file is `silence` or `unknown`.
        mistakes: The most frequent ones: right label, answer, count.
        class_mix: Share of each label among the answers.
        confidences: Probabilities of the answers, sorted.
    """

    whole: Counted
    macro_f1: float
    slices: dict[str, Counted]
    labels: dict[str, LabelMetrics]
    trusted: dict[float, ThresholdMetrics]
    mistakes: tuple[tuple[str, str, int], ...]
    class_mix: dict[str, float]
    confidences: tuple[float, ...]

    def of_kind(self, kind: str) -> dict[str, Counted]:
        """Return the slices of a kind, by value."""
        return slices_of_kind(self.slices, kind)


def measure_keywords(predictions: Sequence[KeywordPrediction], classes: Sequence[str]) -> KeywordMetrics:
    """Compare answers with labels.

    Raises:
        DataRejected: A file's label is none of the classes.
    """
    right, given = [one.file.text for one in predictions], [one.label for one in predictions]
    if other := sorted(set(right) - set(classes)):
        raise DataRejected(f"{other[0]} is none of the model's labels, which are {', '.join(classes)}")
    asked = [name for name in classes if name in right]
    precision, recall, f1, files = precision_recall_fscore_support(
        right, given, labels=asked, zero_division=0
    )
    labels = {
        name: LabelMetrics(int(files[i]), float(precision[i]), float(recall[i]), float(f1[i]))
        for i, name in enumerate(asked)
    }
    traits = sorted({trait for one in predictions for trait in one.file.traits})
    wrong = Counter(pair for pair in zip(right, given, strict=True) if pair[0] != pair[1])
    commonest = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:_MOST_MISTAKES]
    answers = Counter(given)
    return KeywordMetrics(
        whole=_counted(predictions),
        macro_f1=sum(one.f1 for one in labels.values()) / len(labels),
        slices={
            trait: _counted([one for one in predictions if trait in one.file.traits]) for trait in traits
        },
        labels=labels,
        trusted={
            threshold: _at_threshold(predictions, threshold)
            for threshold in _THRESHOLDS
            if {*right} & {*OTHERS}
        },
        mistakes=tuple((said, taken, count) for (said, taken), count in commonest),
        class_mix={name: answers[name] / max(1, len(predictions)) for name in classes},
        confidences=tuple(sorted(one.score for one in predictions)),
    )


def version_metrics(metrics: KeywordMetrics) -> dict[str, float]:
    """Return the metrics for `version.yaml`: of all files, by condition, and of some labels."""
    numbers = {"accuracy": metrics.whole.accuracy, "macro_f1": metrics.macro_f1}
    for name, one in metrics.of_kind("condition").items():
        numbers[f"{name}_accuracy"] = one.accuracy
    for name in OTHERS:
        if name in metrics.labels:
            numbers[f"{name}_recall"] = metrics.labels[name].recall
    return numbers


def _at_threshold(predictions: Sequence[KeywordPrediction], threshold: float) -> ThresholdMetrics:
    answers = [one for one in predictions if one.label not in OTHERS and one.score >= threshold]
    meant = [one for one in answers if one.file.text not in OTHERS]
    keywords = sum(one.file.text not in OTHERS for one in predictions)
    return ThresholdMetrics(
        answered=len(meant) / max(1, keywords),
        right=_counted(meant).accuracy,
        mistaken=(len(answers) - len(meant)) / max(1, len(predictions) - keywords),
    )


def _counted(predictions: Sequence[KeywordPrediction]) -> Counted:
    return Counted(len(predictions), sum(one.label == one.file.text for one in predictions))

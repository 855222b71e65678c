"""How often short sounds are taken for what they are: counted over files, by label and by slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sklearn.metrics import precision_recall_fscore_support

from training.errors import DataRejected
from training.speech.keywords.predict import Heard

OTHERS = ("silence", "unknown")  # labels of sounds in which nothing is to be recognised
_COMMONEST = 12
_THRESHOLDS = (0.0, 0.5, 0.7, 0.9)


@dataclass(frozen=True, slots=True)
class Counted:
    """Files of a slice, and how many of them were answered rightly."""

    files: int = 0
    right: int = 0

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / max(1, self.files)


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """How good one label is.

    Attributes:
        files: That have it.
        precision: Share of the files answered with it that have it.
        recall: Share of the files that have it that were answered with it.
        f1: Their harmonic mean.
    """

    files: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Trusted:
    """What is left if answers `silence`, `unknown` or below a threshold count as no answer.

    Attributes:
        answered: Share of the files with another label that got an answer.
        right: Share of those answers that are right.
        mistaken: Share of the files `silence` or `unknown` that got an answer all the same.
    """

    answered: float
    right: float
    mistaken: float


@dataclass(frozen=True, slots=True)
class KeywordFigures:
    """How good answers were.

    Attributes:
        whole: Of all files.
        macro_f1: Mean of the labels' F1.
        slices: By what is notable about a file, `kind: value`.
        labels: By label, of those that files have.
        trusted: By threshold; empty where no file is `silence` or `unknown`.
        mistakes: The commonest: right label, answer, how often.
        class_mix: Share of each label among the answers.
        confidences: Probabilities of the answers, sorted.
    """

    whole: Counted
    macro_f1: float
    slices: dict[str, Counted]
    labels: dict[str, LabelFigures]
    trusted: dict[float, Trusted]
    mistakes: tuple[tuple[str, str, int], ...]
    class_mix: dict[str, float]
    confidences: tuple[float, ...]

    def of_kind(self, kind: str) -> dict[str, Counted]:
        """Give the slices of a kind, by value."""
        start = f"{kind}: "
        return {name.removeprefix(start): one for name, one in self.slices.items() if name.startswith(start)}


def measure_keywords(heard: Sequence[Heard], classes: Sequence[str]) -> KeywordFigures:
    """Compare answers with labels.

    Raises:
        DataRejected: A file's label is none of the classes.
    """
    right, given = [one.file.text for one in heard], [one.label for one in heard]
    if other := sorted(set(right) - set(classes)):
        raise DataRejected(f"{other[0]} is none of the model's labels, which are {', '.join(classes)}")
    asked = [name for name in classes if name in right]
    precision, recall, f1, files = precision_recall_fscore_support(
        right, given, labels=asked, zero_division=0
    )
    labels = {
        name: LabelFigures(int(files[i]), float(precision[i]), float(recall[i]), float(f1[i]))
        for i, name in enumerate(asked)
    }
    traits = sorted({trait for one in heard for trait in one.file.traits})
    wrong = Counter(pair for pair in zip(right, given, strict=True) if pair[0] != pair[1])
    commonest = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:_COMMONEST]
    answers = Counter(given)
    return KeywordFigures(
        whole=_counted(heard),
        macro_f1=sum(one.f1 for one in labels.values()) / len(labels),
        slices={trait: _counted([one for one in heard if trait in one.file.traits]) for trait in traits},
        labels=labels,
        trusted={threshold: _trusted(heard, threshold) for threshold in _THRESHOLDS if {*right} & {*OTHERS}},
        mistakes=tuple((said, taken, count) for (said, taken), count in commonest),
        class_mix={name: answers[name] / max(1, len(heard)) for name in classes},
        confidences=tuple(sorted(one.score for one in heard)),
    )


def rates(figures: KeywordFigures) -> dict[str, float]:
    """Give the figures that `version.yaml` says: of everything, by condition, and of some labels."""
    numbers = {"accuracy": figures.whole.accuracy, "macro_f1": figures.macro_f1}
    for name, one in figures.of_kind("condition").items():
        numbers[f"{name}_accuracy"] = one.accuracy
    for name in OTHERS:
        if name in figures.labels:
            numbers[f"{name}_recall"] = figures.labels[name].recall
    return numbers


def _trusted(heard: Sequence[Heard], threshold: float) -> Trusted:
    answers = [one for one in heard if one.label not in OTHERS and one.score >= threshold]
    meant = [one for one in answers if one.file.text not in OTHERS]
    wanted = sum(one.file.text not in OTHERS for one in heard)
    return Trusted(
        answered=len(meant) / max(1, wanted),
        right=_counted(meant).accuracy,
        mistaken=(len(answers) - len(meant)) / max(1, len(heard) - wanted),
    )


def _counted(heard: Sequence[Heard]) -> Counted:
    return Counted(len(heard), sum(one.label == one.file.text for one in heard))

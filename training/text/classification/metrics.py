"""Metrics of the text classifier: over texts and windows, by label and by length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_f1_score

from service.repository.manifest import VersionFacts
from service.tasks.classification import UNKNOWN, Classification
from service.tasks.text.classification import TextClassification, TextClassificationParameters
from training.core.session import open_version
from training.data.table import read_rows
from training.recipes.text_recipe import TextClassificationRecipe
from training.text.classification.fit import LabelledData
from training.text.classification.windows import draw_windows
from training.text.dataset import LabelledTexts
from training.text.predict import answer_texts

TEST_SEED = 2_000_003
WINDOW_LENGTHS = (10, 20, 40, 80)
_LENGTHS = (0, 100, 200, 400, 800, 1600, 10**9)  # characters
_WORST = 3


@dataclass(frozen=True, slots=True)
class Texts:
    """A named set of raw texts for evaluation, with their right labels, `unknown` included."""

    name: str
    texts: list[str]
    labels: list[str]


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """The answer to one text: its label, the best label but `unknown`, and that one's probability."""

    label: str
    best: str
    score: float


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over texts of known labels.

    Attributes:
        answered: Texts that got a label other than `unknown`.
        right: Texts that got the right label.
        best_right: Texts whose best label is right, answered or not.
    """

    items: int
    answered: int
    right: int
    best_right: int

    @property
    def coverage(self) -> float:
        """Share of texts that got a label."""
        return self.answered / max(1, self.items)

    @property
    def accuracy(self) -> float:
        """Share of texts that got the right label; `unknown` is wrong."""
        return self.right / max(1, self.items)

    @property
    def answered_accuracy(self) -> float:
        """Share of the labels given that are right."""
        return self.right / max(1, self.answered)


@dataclass(frozen=True, slots=True)
class LabelEvaluation:
    """Metrics on the test part.

    Attributes:
        whole: On the texts.
        windows: On windows of the texts, by their length in characters.
        macro_f1: Mean of the labels' F1 on the texts.
        by_label: On the texts and on the windows of the measured length, by label.
        by_length: On the texts, by their length.
        confused: The most frequent wrong answers to windows: right label, answer, count.
        strangers: Texts and windows with none of the labels: count, and count of the answer `unknown`.
        beside: The recipe's further texts with their right labels and answers.
        class_mix: Share of each label among the answers to texts.
        confidence: The best labels' probabilities on texts, sorted.
    """

    whole: Tally
    windows: dict[int, Tally]
    macro_f1: float
    by_label: dict[str, tuple[Tally, Tally]]
    by_length: dict[str, Tally]
    confused: tuple[tuple[str, str, int], ...]
    strangers: dict[str, tuple[int, int]]
    beside: tuple[tuple[str, str, LabelPrediction], ...]
    class_mix: dict[str, float]
    confidence: NDArray[np.float64]
    measured: int


def answer_labels(folder: Path, facts: VersionFacts, texts: Sequence[str]) -> list[LabelPrediction]:
    """Classify raw texts with an exported version."""
    task, run = open_version(folder, TextClassification, facts)
    everything = TextClassificationParameters(top_k=len(task.labels) + 1, truncate=True)
    return [_answer(cast(Classification, result)) for result in answer_texts(task, run, texts, everything)]


def _answer(result: Classification) -> LabelPrediction:
    first = result["predictions"][0]
    best = result["predictions"][1] if first["label"] == UNKNOWN else first
    return LabelPrediction(first["label"], best["label"], best["score"])


def evaluate_labels(
    folder: Path, facts: VersionFacts, data: LabelledData, recipe: TextClassificationRecipe
) -> LabelEvaluation:
    """Evaluate an exported version on the test part, and on windows of its texts."""
    table, part = data.table, data.parts.test
    named = [*table.classes, UNKNOWN]  # a label of -1 is the last
    whole = Texts("texts", [table.texts[i] for i in part], [named[table.labels[i]] for i in part])
    cut = [_windows(table, part, length, named) for length in (WINDOW_LENGTHS if recipe.windows else ())]
    beside = _beside(recipe)
    sets = [whole, *cut, beside]
    flat = answer_labels(folder, facts, [text for texts in sets for text in texts.texts])
    answers, start = [], 0
    for texts in sets:
        answers.append(flat[start : start + len(texts.texts)])
        start += len(texts.texts)
    return _count(sets, answers, table.classes, recipe)


def _windows(table: LabelledTexts, part: NDArray[np.int64], length: int, named: Sequence[str]) -> Texts:
    windows, owners = draw_windows(table, part, length, TEST_SEED)
    return Texts(f"windows of {length} characters", windows, [named[table.labels[i]] for i in owners])


def _beside(recipe: TextClassificationRecipe) -> Texts:
    if recipe.beside_path is None:
        return Texts("beside", [], [])
    rows = read_rows(recipe.beside_path, (recipe.data.text, recipe.data.label), None)
    labels = [UNKNOWN if label == recipe.data.unknown else label for _, label, _ in rows]
    return Texts("beside", [text for text, _, _ in rows], labels)


def _count(
    sets: list[Texts],
    answers: list[list[LabelPrediction]],
    classes: tuple[str, ...],
    recipe: TextClassificationRecipe,
) -> LabelEvaluation:
    whole, *cut, beside = sets
    measured = recipe.windows.measured if recipe.windows else 0
    lengths = WINDOW_LENGTHS if recipe.windows else ()
    at = lengths.index(measured) + 1 if measured in lengths else 0
    known = [i for i, label in enumerate(whole.labels) if label != UNKNOWN]
    true = [whole.labels[i] for i in known]
    best = [answers[0][i].best for i in known]
    return LabelEvaluation(
        whole=tally(whole.labels, answers[0]),
        windows={n: tally(cut[i].labels, answers[i + 1]) for i, n in enumerate(lengths)},
        macro_f1=_macro_f1(true, best, classes),
        by_label={
            name: (_of_label(name, whole, answers[0]), _of_label(name, sets[at], answers[at]))
            for name in classes
        },
        by_length=_by_length(whole, answers[0]),
        confused=_confused(sets[at], answers[at]),
        strangers={
            texts.name: _strangers(texts, given)
            for texts, given in zip(sets[:-1], answers[:-1], strict=True)
            if UNKNOWN in texts.labels
        },
        beside=tuple(zip(beside.texts, beside.labels, answers[-1], strict=True)),
        class_mix={name: best.count(name) / max(1, len(best)) for name in classes},
        confidence=np.sort([answers[0][i].score for i in known]),
        measured=measured,
    )


def tally(labels: Sequence[str], answers: Sequence[LabelPrediction]) -> Tally:
    """Count the answers to texts with a label."""
    pairs = [(label, given) for label, given in zip(labels, answers, strict=True) if label != UNKNOWN]
    return Tally(
        items=len(pairs),
        answered=sum(given.label != UNKNOWN for _, given in pairs),
        right=sum(given.label == label for label, given in pairs),
        best_right=sum(given.best == label for label, given in pairs),
    )


def _of_label(name: str, texts: Texts, answers: list[LabelPrediction]) -> Tally:
    kept = [i for i, label in enumerate(texts.labels) if label == name]
    return tally([name] * len(kept), [answers[i] for i in kept])


def _by_length(texts: Texts, answers: list[LabelPrediction]) -> dict[str, Tally]:
    places = np.digitize([len(text) for text in texts.texts], _LENGTHS) - 1
    tallies = {}
    for place, (low, high) in enumerate(pairwise(_LENGTHS)):
        kept = np.flatnonzero(places == place).tolist()
        if kept:
            name = f"{low} to {high - 1} characters" if high < _LENGTHS[-1] else f"{low} characters and more"
            tallies[name] = tally([texts.labels[i] for i in kept], [answers[i] for i in kept])
    return tallies


def _confused(texts: Texts, answers: list[LabelPrediction]) -> tuple[tuple[str, str, int], ...]:
    wrong = Counter(
        (label, given.label)
        for label, given in zip(texts.labels, answers, strict=True)
        if UNKNOWN not in (label, given.label) and label != given.label
    )
    return tuple((right, given, count) for (right, given), count in wrong.most_common(2 * _WORST))


def _strangers(texts: Texts, answers: list[LabelPrediction]) -> tuple[int, int]:
    given = [answer for label, answer in zip(texts.labels, answers, strict=True) if label == UNKNOWN]
    return len(given), sum(answer.label == UNKNOWN for answer in given)


def _macro_f1(true: Sequence[str], best: Sequence[str], classes: tuple[str, ...]) -> float:
    place = {name: i for i, name in enumerate(classes)}
    given, right = (torch.tensor([place[name] for name in names]) for names in (best, true))
    return float(multiclass_f1_score(given, right, len(classes), average="macro"))

"""Metrics of transcripts: word error rates, counted by jiwer, with slices.

The word error rate is the number of wrong, missing and added words, divided by the number of words spoken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import jiwer

from training.core.slices import slices_of_kind
from training.speech.dataset import SpeechFile
from training.speech.recognition.predict import Hypothesis
from training.speech.recognition.tokens import normalize_text

Pairs = Sequence[tuple[SpeechFile, Hypothesis]]


@dataclass(frozen=True, slots=True)
class Errors:
    """Counts of errors.

    Attributes:
        words: Words spoken.
        right_files: Files without an error.
    """

    files: int = 0
    words: int = 0
    substituted: int = 0
    missing: int = 0
    added: int = 0
    right_files: int = 0

    @property
    def rate(self) -> float:
        """The word error rate; it can be above 1."""
        return (self.substituted + self.missing + self.added) / max(1, self.words)

    def plus(self, other: Errors) -> Errors:
        """Return the sum."""
        return Errors(*(getattr(self, name) + getattr(other, name) for name in Errors.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Slice:
    """Errors of some files: with the word list, and with greedy decoding."""

    searched: Errors = field(default_factory=Errors)
    letters: Errors = field(default_factory=Errors)

    def plus(self, other: Slice) -> Slice:
        """Return the sum."""
        return Slice(self.searched.plus(other.searched), self.letters.plus(other.letters))


@dataclass(frozen=True, slots=True)
class SpeechMetrics:
    """Metrics of transcripts.

    Attributes:
        whole: Of all files.
        slices: By trait of the files, `kind: value`.
        mistakes: The most frequent substitutions: word spoken, word written, count.
        confidences: Of all words written.
    """

    whole: Slice
    slices: dict[str, Slice]
    mistakes: tuple[tuple[str, str, int], ...]
    confidences: tuple[float, ...] = ()

    def of_kind(self, kind: str) -> dict[str, Slice]:
        """Return the slices of a kind, by value."""
        return slices_of_kind(self.slices, kind)


def measure(pairs: Pairs, most_mistakes: int = 12) -> SpeechMetrics:
    """Compare transcripts with what was spoken."""
    whole, slices = Slice(), dict[str, Slice]()
    mistakes: Counter[tuple[str, str]] = Counter()
    for file, hypothesis in pairs:
        found, substitutions = count_errors(file.text, hypothesis.text)
        mistakes.update(substitutions)
        one = Slice(found, count_errors(file.text, hypothesis.letters)[0])
        whole = whole.plus(one)
        for trait in file.traits:
            slices[trait] = slices.get(trait, Slice()).plus(one)
    common = sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))[:most_mistakes]
    return SpeechMetrics(
        whole,
        {name: slices[name] for name in sorted(slices)},
        tuple((said, written, count) for (said, written), count in common),
        tuple(confidence for _, hypothesis in pairs for confidence in hypothesis.confidences),
    )


def count_errors(said: str, written: str) -> tuple[Errors, list[tuple[str, str]]]:
    """Return the errors of one transcript, and its substitutions: word spoken, word written."""
    words = normalize_text(said).split()
    given = normalize_text(written).split()
    if not words:
        return Errors(files=1, added=len(given), right_files=int(not given)), []
    counts = jiwer.process_words(" ".join(words), " ".join(given))
    substitutions = [
        (words[chunk.ref_start_idx + place], given[chunk.hyp_start_idx + place])
        for chunk in counts.alignments[0]
        if chunk.type == "substitute"
        for place in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
    errors = Errors(
        files=1,
        words=len(words),
        substituted=counts.substitutions,
        missing=counts.deletions,
        added=counts.insertions,
        right_files=int(words == given),
    )
    return errors, substitutions


def version_metrics(metrics: SpeechMetrics) -> dict[str, float]:
    """Return the metrics for `version.yaml`: of all files, and by condition."""
    named = {"": metrics.whole} | {f"{name}_": one for name, one in metrics.of_kind("condition").items()}
    return {
        f"{name}{how}": errors.rate
        for name, one in named.items()
        for how, errors in (("word_error_rate", one.searched), ("greedy_word_error_rate", one.letters))
    }

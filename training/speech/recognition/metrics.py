"""How good transcripts are: word error rates, counted by jiwer, with slices.

The word error rate is the words that are wrong, missing or too many, by the words that were said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jiwer

from training.speech.dataset import SpokenFile
from training.speech.recognition.predict import Answer
from training.speech.recognition.tokens import plain

Heard = Sequence[tuple[SpokenFile, Answer]]


@dataclass(frozen=True, slots=True)
class Errors:
    """What was wrong.

    Attributes:
        words: That were said.
        right_files: Files in which nothing is wrong.
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
        """Add up."""
        return Errors(
            *(getattr(self, name) + getattr(other, name) for name in Errors.__dataclass_fields__),
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """Errors of some files: searched with the word list, and letter by letter."""

    searched: Errors = field(default_factory=Errors)
    letters: Errors = field(default_factory=Errors)

    def plus(self, other: Slice) -> Slice:
        """Add up."""
        return Slice(self.searched.plus(other.searched), self.letters.plus(other.letters))


@dataclass(frozen=True, slots=True)
class SpeechFigures:
    """How good transcripts were.

    Attributes:
        whole: Of all files.
        slices: By what is notable about a file, `kind: value`.
        mistakes: The commonest words taken for others: what was said, what was written, how often.
    """

    whole: Slice
    slices: dict[str, Slice]
    mistakes: tuple[tuple[str, str, int], ...]

    def of_kind(self, kind: str) -> dict[str, Slice]:
        """Give the slices of a kind, by value."""
        start = f"{kind}: "
        return {name.removeprefix(start): one for name, one in self.slices.items() if name.startswith(start)}


def measure(heard: Heard, most_mistakes: int = 12) -> SpeechFigures:
    """Compare transcripts with what was said."""
    whole, slices = Slice(), dict[str, Slice]()
    mistakes: Counter[tuple[str, str]] = Counter()
    for file, answer in heard:
        found, taken = errors_of(file.text, answer.text)
        mistakes.update(taken)
        one = Slice(found, errors_of(file.text, answer.letters)[0])
        whole = whole.plus(one)
        for trait in file.traits:
            slices[trait] = slices.get(trait, Slice()).plus(one)
    common = sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))[:most_mistakes]
    return SpeechFigures(
        whole,
        {name: slices[name] for name in sorted(slices)},
        tuple((said, written, count) for (said, written), count in common),
    )


def errors_of(said: str, written: str) -> tuple[Errors, list[tuple[str, str]]]:
    """Count the errors of one transcript, and list the words taken for others."""
    words = plain(said).split()
    given = plain(written).split()
    if not words:
        return Errors(files=1, added=len(given), right_files=int(not given)), []
    counts = jiwer.process_words(" ".join(words), " ".join(given))
    taken = [
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
    return errors, taken


def rates(figures: SpeechFigures) -> Mapping[str, float]:
    """Give the figures that `version.yaml` says: of everything, and by condition."""
    named = {"": figures.whole} | {f"{name}_": one for name, one in figures.of_kind("condition").items()}
    return {
        f"{name}{how}": errors.rate
        for name, one in named.items()
        for how, errors in (("word_error_rate", one.searched), ("greedy_word_error_rate", one.letters))
    }

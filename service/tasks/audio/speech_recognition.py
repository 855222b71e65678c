"""Speech -> words with their times: pieces of a recording before the queue, their words after it.

A long recording is cut at pauses, each piece is an item of its own, and what the graph makes of them is
joined frame by frame before words are searched. The spectrum and the network are nodes of the graph.

Letters in shapes: `F` frames, `V` tokens.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import (
    Annotated,
    ClassVar,
    Literal,
    NotRequired,  # pydantic reads typing's own from Python 3.12 on
    cast,
)

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from service.errors import ModelRejected, ValidationFailed
from service.repository.manifest import AudioInput, Transcription, VersionFacts
from service.tasks.audio.audio_file import claimed_seconds
from service.tasks.audio.beam_search import WordSearch
from service.tasks.audio.classification import read_json_sound
from service.tasks.audio.ctc_decoding import SEPARATOR, Spelt, best_path, mark_pauses, read_tokens, spell
from service.tasks.audio.segment_joining import Frames, join
from service.tasks.audio.segmentation import Piece, cut
from service.tasks.audio.waveform import SoundPart, read_sound
from service.tasks.task import Decoded, Limits, Outputs, Raw, Result, StatedSeconds, largest_differences

_WIDENED_FRAMES = 3  # a letter sounds for longer than the frames that the network names it in
_PAUSE_SECONDS = 0.4  # nobody stops for so long within a word
_COMPARED_ABOVE = -15.0  # log probabilities below say nothing
_TIMES_AGREE_SECONDS = 0.1


class RecordingParameters(BaseModel):
    """What every endpoint that writes speech down can be asked.

    Attributes:
        search: `words` of the version's list, or `greedy`, letter by letter; None is `words` if there is
            a list.
        truncate: Cut a recording that is too long, and say so, instead of refusing it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    search: Annotated[
        Literal["words", "greedy"] | None,
        Field(description="Among the words of the model's list, or letter by letter; by default the list."),
    ] = None
    truncate: Annotated[bool, Field(description="Cut long recordings, and say so, instead of refusing.")] = (
        False
    )


class SpeechParameters(RecordingParameters):
    """Parameters of speech recognition.

    Attributes:
        timestamps: Whether the answer holds every word's times.
    """

    timestamps: Annotated[
        Literal["words", "none"], Field(description="Give every word's start, end and confidence, or none.")
    ] = "words"


class Word(TypedDict):
    """One word: when it is said, in seconds from the beginning, and how sure the model is, 0-1."""

    word: str
    start: float
    end: float
    confidence: float


class Transcript(TypedDict):
    """The result of one recording; `duration` is in seconds, `truncated` is there where it was cut."""

    text: str
    words: NotRequired[list[Word]]
    duration: float
    truncated: NotRequired[bool]


_TRANSCRIPT = TypeAdapter(Transcript)


class SpeechRecognition:
    """`speech-recognition` for one version: recordings in, words out.

    Raises:
        ModelRejected: The facts or files of the version do not fit together.
    """

    name: ClassVar[str] = "speech-recognition"
    parameters: ClassVar[type[BaseModel]] = SpeechParameters
    media_type: ClassVar[str] = "audio/*"
    inputs: ClassVar[Mapping[str, str]] = {"audio": "float32", "lengths": "int64"}
    outputs: ClassVar[Mapping[str, str]] = {"log_probs": "float32", "frames": "int64"}
    result: ClassVar[type] = Transcript
    stated_seconds: ClassVar[StatedSeconds | None] = staticmethod(claimed_seconds)

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        if not isinstance(facts.input, AudioInput):
            raise ModelRejected(f"version.yaml says input kind {facts.input.kind}, {self.name} needs audio")
        if facts.transcription is None:
            raise ModelRejected(f"version.yaml has no transcription, {self.name} needs one")
        self.labels: tuple[str, ...] = ()
        self.quick_size = 0  # decoding a second of sound takes longer than waking a thread
        self._spec = facts.input
        self._tokens = read_tokens(folder / facts.transcription.tokens)
        self._separator = self._tokens.index(SEPARATOR)
        self._grid = max(1, round(facts.transcription.frame_seconds * self._spec.sample_rate))
        self._frame_seconds = facts.transcription.frame_seconds
        self._pause_frames = max(2, round(_PAUSE_SECONDS / self._frame_seconds))
        self._search: WordSearch | None = None
        if facts.transcription.words is not None:
            self._search = WordSearch(folder, facts.transcription, self._tokens)

    def weighted(self, transcription: Transcription) -> SpeechRecognition:
        """Answer with other weights of words and language model, whose files are not read again."""
        other = copy.copy(self)
        other._search = self._search and self._search.weighted(transcription)
        return other

    @staticmethod
    def from_json(value: object) -> Raw:
        """Decode one base64 file, with or without a `data:` prefix."""
        return read_json_sound(value)

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Decode one recording and cut it into pieces; a piece costs its samples, and silence makes none.

        Raises:
            ValidationFailed: A search among words is asked for, and the version has no list.
        """
        wanted = cast(RecordingParameters, parameters)
        if wanted.search == "words" and self._search is None:
            raise ValidationFailed("the model has no word list; search can be greedy", param="search")
        sound = read_sound(
            raw.encode() if isinstance(raw, str) else raw,
            self._spec.sample_rate,
            max_seconds=limits.max_audio_seconds,
            truncate=wanted.truncate,
            declared_type=declared_type,
        )
        pieces = cut(sound.samples, sound.sample_rate, self._spec.max_seconds, self._grid)
        least = int(self._spec.min_seconds * self._spec.sample_rate)
        parts = tuple(SoundPart(sound.samples[piece.start : piece.end], least) for piece in pieces)
        context = {"pieces": pieces, "truncated": sound.truncated}
        return Decoded(parts, tuple(part.size for part in parts), context, sound.seconds)

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Join the pieces' `log_probs` f32 [F, V] and search them for words. Slow: seconds for an hour."""
        wanted = cast(RecordingParameters, parameters)
        words: list[Word] = []
        for stretch in self._joined(parts, decoded):
            words += self._words(stretch, greedy=wanted.search == "greedy", most_seconds=decoded.seconds)
        transcript: Transcript = {
            "text": " ".join(word["word"] for word in words),
            "words": _in_order(words),
            "duration": round(decoded.seconds, 3),
        }
        if isinstance(wanted, SpeechParameters) and wanted.timestamps == "none":
            del transcript["words"]
        if decoded.context["truncated"]:
            transcript["truncated"] = True
        return cast(Result, transcript)

    def check_outputs(self, outputs: Outputs) -> None:
        """Check that there is a probability a token, that they add up to 1, and how many frames there are."""
        log_probs, frames = outputs["log_probs"], outputs["frames"]
        if log_probs.ndim != 3 or log_probs.shape[2] != len(self._tokens):
            raise ModelRejected(
                f"output log_probs has shape {list(log_probs.shape)} for {len(self._tokens)} tokens"
            )
        if frames.shape != log_probs.shape[:1]:
            raise ModelRejected(f"output frames has shape {list(frames.shape)}, expected [N]")
        if (frames < 0).any() or (frames > log_probs.shape[1]).any():
            raise ModelRejected(f"output frames holds numbers beyond the {log_probs.shape[1]} frames")
        for row, count in zip(log_probs, frames, strict=True):
            sums = np.exp(row[:count].astype(np.float64)).sum(axis=1)
            worst = float(np.abs(sums - 1.0).max(initial=0.0))
            if not worst < 1e-2:
                raise ModelRejected(f"output log_probs does not add up to 1: off by {worst:.3g}")

    def differences(self, expected: Outputs, got: Outputs) -> dict[str, float]:
        """Compare log probabilities number by number where frames are valid and anything is likely."""
        frames = expected["frames"]
        wanted = {"log_probs": _comparable(expected["log_probs"], frames), "frames": frames}
        return largest_differences(wanted, {**got, "log_probs": _comparable(got["log_probs"], frames)})

    def agrees(self, expected: Result, got: Result, tolerance: float) -> str | None:
        """Compare the texts, every word's times within a tenth of a second, and its confidence."""
        try:
            wanted = _TRANSCRIPT.validate_python(expected)
        except ValidationError as error:
            return f"the expected answer is no transcript: {error.errors()[0]['msg']}"
        found = cast(Transcript, got)
        if wanted["text"] != found["text"]:
            return f"the text is {found['text']!r}, expected {wanted['text']!r}"
        for word, other in zip(wanted.get("words", []), found.get("words", []), strict=False):
            apart = max(abs(word["start"] - other["start"]), abs(word["end"] - other["end"]))
            if not apart <= _TIMES_AGREE_SECONDS:
                return f"the word {word['word']!r} is {apart:.2f} s away from where it was"
            if not abs(word["confidence"] - other["confidence"]) <= tolerance:
                return (
                    f"the word {word['word']!r} has confidence {other['confidence']:.4f}, "
                    f"expected {word['confidence']:.4f} ± {tolerance:g}"
                )
        return None

    def _joined(self, parts: Sequence[Outputs], decoded: Decoded) -> list[Frames]:
        pieces = cast(Sequence[Piece], decoded.context["pieces"])
        frames = [
            (Frames(piece.start // self._grid, outputs["log_probs"][: int(outputs["frames"])]), piece.joins)
            for piece, outputs in zip(pieces, parts, strict=True)
        ]
        return join(frames, self._separator)

    def _words(self, stretch: Frames, *, greedy: bool, most_seconds: float) -> list[Word]:
        choose = best_path if greedy or self._search is None else self._search.best_path
        log_probs = mark_pauses(stretch.log_probs, self._separator, self._pause_frames)
        spelt = spell(choose(log_probs), log_probs, self._tokens)
        return [
            Word(
                word=word.word,
                start=round((stretch.start + start) * self._frame_seconds, 3),
                end=round(min((stretch.start + end) * self._frame_seconds, most_seconds), 3),
                confidence=round(word.confidence, 4),
            )
            for word, (start, end) in zip(spelt, _widened(spelt, stretch.end - stretch.start), strict=True)
        ]


def _widened(words: Sequence[Spelt], most: int) -> list[tuple[int, int]]:
    """Give words the frames around them, as far as no other word has them; at most half of a gap."""
    starts = [word.start for word in words]
    ends = [word.end for word in words]
    for i, (before, behind) in enumerate(itertools.pairwise(words)):
        gap = behind.start - before.end
        ends[i] += min(_WIDENED_FRAMES, gap // 2)
        starts[i + 1] -= min(_WIDENED_FRAMES, gap // 2)
    if words:
        starts[0] = max(0, starts[0] - _WIDENED_FRAMES)
        ends[-1] = min(most, ends[-1] + _WIDENED_FRAMES)
    return list(zip(starts, ends, strict=True))


def _in_order(words: list[Word]) -> list[Word]:
    """See to it that no word begins before the one before it has ended."""
    for before, behind in itertools.pairwise(words):
        behind["start"] = max(behind["start"], before["end"])
        behind["end"] = max(behind["end"], behind["start"])
    return words


def _comparable(log_probs: NDArray[np.float32], frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """Level what does not matter: frames of padding, and tokens that are out of the question."""
    valid = np.arange(log_probs.shape[1]) < frames[:, np.newaxis]
    return np.where(valid[..., np.newaxis], np.maximum(log_probs, _COMPARED_ABOVE), 0.0).astype(np.float32)

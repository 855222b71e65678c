"""The task `speech-recognition`: recordings in, words with their times out.

A long recording is segmented at pauses, and each segment is one item in the queue. The graph's outputs are
joined before the words are decoded. The spectrum is computed by the graph.

Array shapes: `F` frames, `V` tokens.
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
from service.tasks.audio.audio_file import seconds_in_header
from service.tasks.audio.beam_search import BeamSearch
from service.tasks.audio.ctc_decoding import (
    SEPARATOR,
    DecodedWord,
    best_path,
    decode_words,
    mark_pauses,
    read_tokens,
)
from service.tasks.audio.segment_joining import SegmentOutput, join_segments
from service.tasks.audio.segmentation import Segment, segment_audio
from service.tasks.audio.waveform import AudioSegment, decode_audio
from service.tasks.base64_file import decode_base64_file
from service.tasks.task import Decoded, Limits, Outputs, Raw, Result, StatedSeconds, largest_differences

_WIDENING_FRAMES = 3  # a letter lasts longer than the frames in which the network names it
_PAUSE_SECONDS = 0.4  # pauses within a word are shorter
_MIN_COMPARED_LOG_PROB = -15.0  # lower log probabilities do not affect answers
_TIME_TOLERANCE_SECONDS = 0.1


class RecordingParameters(BaseModel):
    """Parameters of all endpoints that transcribe speech.

    Attributes:
        search: `words` searches the version's word list, `greedy` decodes letter by letter; None is `words`
            if there is a list.
        truncate: Cut a recording that is too long and mark the result, instead of refusing it.
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
        Literal["words", "none"], Field(description="Every word's start, end and confidence, or none.")
    ] = "words"


class Word(TypedDict):
    """One word: start and end in seconds from the beginning, and confidence, 0-1."""

    word: str
    start: float
    end: float
    confidence: float


class Transcript(TypedDict):
    """The result of one recording; `duration` is in seconds, `truncated` is present if it was cut."""

    text: str
    words: NotRequired[list[Word]]
    duration: float
    truncated: NotRequired[bool]


_TRANSCRIPT = TypeAdapter(Transcript)


class SpeechRecognition:
    """`speech-recognition` for one version.

    Raises:
        ModelRejected: A file of the version is missing or invalid, or `version.yaml` describes another task.
    """

    name: ClassVar[str] = "speech-recognition"
    parameters: ClassVar[type[BaseModel]] = SpeechParameters
    media_type: ClassVar[str] = "audio/*"
    inputs: ClassVar[Mapping[str, str]] = {"audio": "float32", "lengths": "int64"}
    outputs: ClassVar[Mapping[str, str]] = {"log_probs": "float32", "frames": "int64"}
    result: ClassVar[type] = Transcript
    stated_seconds: ClassVar[StatedSeconds | None] = staticmethod(seconds_in_header)

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        if not isinstance(facts.input, AudioInput):
            raise ModelRejected(f"version.yaml says input kind {facts.input.kind}, {self.name} needs audio")
        if facts.transcription is None:
            raise ModelRejected(f"version.yaml has no transcription, {self.name} needs one")
        self.labels: tuple[str, ...] = ()
        self.quick_size = 0  # decoding a second of audio takes longer than waking a thread
        self._spec = facts.input
        self._tokens = read_tokens(folder / facts.transcription.tokens)
        self._separator = self._tokens.index(SEPARATOR)
        self._frame_size = max(1, round(facts.transcription.frame_seconds * self._spec.sample_rate))
        self._frame_seconds = facts.transcription.frame_seconds
        self._pause_frames = max(2, round(_PAUSE_SECONDS / self._frame_seconds))
        self._search: BeamSearch | None = None
        if facts.transcription.words is not None:
            self._search = BeamSearch(folder, facts.transcription, self._tokens)

    def with_weights(self, transcription: Transcription) -> SpeechRecognition:
        """Return the task with other weights of beam search; no file is read again."""
        other = copy.copy(self)
        other._search = self._search and self._search.with_weights(transcription)
        return other

    @staticmethod
    def from_json(value: object) -> Raw:
        """Return the bytes of a base64 file."""
        return decode_base64_file(value, "an audio file")

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Return the segments of one recording; a segment costs its samples, and silence has no segment.

        Raises:
            ValidationFailed: Search in the word list is requested, and the version has none.
        """
        wanted = cast(RecordingParameters, parameters)
        if wanted.search == "words" and self._search is None:
            raise ValidationFailed("the model has no word list; search can be greedy", param="search")
        waveform = decode_audio(
            raw.encode() if isinstance(raw, str) else raw,
            self._spec.sample_rate,
            max_seconds=limits.max_audio_seconds,
            truncate=wanted.truncate,
            declared_type=declared_type,
        )
        segments = segment_audio(
            waveform.samples, waveform.sample_rate, self._spec.max_seconds, self._frame_size
        )
        min_size = int(self._spec.min_seconds * self._spec.sample_rate)
        parts = tuple(
            AudioSegment(waveform.samples[segment.start : segment.end], min_size) for segment in segments
        )
        context = {"segments": segments, "truncated": waveform.truncated}
        return Decoded(parts, tuple(part.size for part in parts), context, waveform.seconds)

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Return the words of the segments' `log_probs` f32 [F, V]. Slow: seconds for an hour of speech."""
        wanted = cast(RecordingParameters, parameters)
        words: list[Word] = []
        for output in self._joined(parts, decoded):
            words += self._words(output, greedy=wanted.search == "greedy", max_seconds=decoded.seconds)
        transcript: Transcript = {
            "text": " ".join(word["word"] for word in words),
            "words": _without_overlap(words),
            "duration": round(decoded.seconds, 3),
        }
        if isinstance(wanted, SpeechParameters) and wanted.timestamps == "none":
            del transcript["words"]
        if decoded.context["truncated"]:
            transcript["truncated"] = True
        return cast(Result, transcript)

    def check_outputs(self, outputs: Outputs) -> None:
        """Check the shapes, the numbers of frames, and that probabilities add up to 1."""
        log_probs, frames = outputs["log_probs"], outputs["frames"]
        if log_probs.ndim != 3 or log_probs.shape[2] != len(self._tokens):
            raise ModelRejected(
                f"output log_probs has shape {list(log_probs.shape)} for {len(self._tokens)} tokens"
            )
        if frames.shape != log_probs.shape[:1]:
            raise ModelRejected(f"output frames has shape {list(frames.shape)}, expected [N]")
        if (frames < 0).any() or (frames > log_probs.shape[1]).any():
            raise ModelRejected(f"output frames has numbers outside of 0 to {log_probs.shape[1]}")
        for row, count in zip(log_probs, frames, strict=True):
            sums = np.exp(row[:count].astype(np.float64)).sum(axis=1)
            worst = float(np.abs(sums - 1.0).max(initial=0.0))
            if not worst < 1e-2:
                raise ModelRejected(f"output log_probs does not add up to 1: off by {worst:.3g}")

    def differences(self, expected: Outputs, got: Outputs) -> dict[str, float]:
        """Compare log probabilities number by number, in valid frames and where they are not negligible."""
        frames = expected["frames"]
        wanted = {"log_probs": _comparable(expected["log_probs"], frames), "frames": frames}
        return largest_differences(wanted, {**got, "log_probs": _comparable(got["log_probs"], frames)})

    def agrees(self, expected: Result, got: Result, tolerance: float) -> str | None:
        """Compare the texts, and each word's times (within 0.1 s) and confidence."""
        try:
            wanted = _TRANSCRIPT.validate_python(expected)
        except ValidationError as error:
            return f"the expected answer is not a transcript: {error.errors()[0]['msg']}"
        found = cast(Transcript, got)
        if wanted["text"] != found["text"]:
            return f"the text is {found['text']!r}, expected {wanted['text']!r}"
        for word, other in zip(wanted.get("words", []), found.get("words", []), strict=False):
            apart = max(abs(word["start"] - other["start"]), abs(word["end"] - other["end"]))
            if not apart <= _TIME_TOLERANCE_SECONDS:
                return f"the word {word['word']!r} is {apart:.2f} s away from the expected time"
            if not abs(word["confidence"] - other["confidence"]) <= tolerance:
                return (
                    f"the word {word['word']!r} has confidence {other['confidence']:.4f}, "
                    f"expected {word['confidence']:.4f} ± {tolerance:g}"
                )
        return None

    def _joined(self, parts: Sequence[Outputs], decoded: Decoded) -> list[SegmentOutput]:
        segments = cast(Sequence[Segment], decoded.context["segments"])
        outputs = []
        for segment, part in zip(segments, parts, strict=True):
            log_probs = part["log_probs"][: int(part["frames"])]
            output = SegmentOutput(segment.start // self._frame_size, log_probs)
            outputs.append((output, segment.overlaps_previous))
        return join_segments(outputs, self._separator)

    def _words(self, output: SegmentOutput, *, greedy: bool, max_seconds: float) -> list[Word]:
        choose = best_path if greedy or self._search is None else self._search.best_path
        log_probs = mark_pauses(output.log_probs, self._separator, self._pause_frames)
        decoded = decode_words(choose(log_probs), log_probs, self._tokens)
        return [
            Word(
                word=word.word,
                start=round((output.start + start) * self._frame_seconds, 3),
                end=round(min((output.start + end) * self._frame_seconds, max_seconds), 3),
                confidence=round(word.confidence, 4),
            )
            for word, (start, end) in zip(decoded, _widen(decoded, output.end - output.start), strict=True)
        ]


def _widen(words: Sequence[DecodedWord], frames: int) -> list[tuple[int, int]]:
    """Return the words' starts and ends, moved outwards by some frames, at most by half of a gap."""
    starts = [word.start for word in words]
    ends = [word.end for word in words]
    for i, (before, after) in enumerate(itertools.pairwise(words)):
        gap = after.start - before.end
        ends[i] += min(_WIDENING_FRAMES, gap // 2)
        starts[i + 1] -= min(_WIDENING_FRAMES, gap // 2)
    if words:
        starts[0] = max(0, starts[0] - _WIDENING_FRAMES)
        ends[-1] = min(frames, ends[-1] + _WIDENING_FRAMES)
    return list(zip(starts, ends, strict=True))


def _without_overlap(words: list[Word]) -> list[Word]:
    """Move starts so that no word begins before the previous one ends."""
    for before, after in itertools.pairwise(words):
        after["start"] = max(after["start"], before["end"])
        after["end"] = max(after["end"], after["start"])
    return words


def _comparable(log_probs: NDArray[np.float32], frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """Set padding frames to 0 and raise negligible log probabilities to the lower limit."""
    valid = np.arange(log_probs.shape[1]) < frames[:, np.newaxis]
    return np.where(valid[..., np.newaxis], np.maximum(log_probs, _MIN_COMPARED_LOG_PROB), 0.0).astype(
        np.float32
    )

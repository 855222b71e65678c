"""`POST /v1/audio/transcriptions`: speech recognition in the format of OpenAI's API."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import orjson
from pydantic import Field
from starlette.responses import Response

from service.errors import InvalidInput, UnsupportedMedia, ValidationFailed
from service.http.v1.request_body import ParsedBody, media_type, read_form
from service.http.v1.tasks import TaskEndpoint
from service.inference.request import InferenceAnswer, InferenceRequest
from service.repository.loader import Version
from service.tasks.audio.audio_file import FORMATS_TEXT
from service.tasks.audio.speech_recognition import RecordingParameters, Transcript, Word

_GRANULARITIES = "timestamp_granularities"
_PAUSE_SECONDS = 0.6  # a longer one begins a new segment
_SEGMENT_SECONDS = 7.0  # and so does a longer segment: what a viewer reads at once
_SEGMENT_LETTERS = 84
_NEVER_PROBABLE = 1e-4  # confidences are rounded to this
_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}


class TranscriptionParameters(RecordingParameters):
    """Fields of OpenAI's form, beside the file and the model.

    Attributes:
        language: Must be the model's own, if it is given.
        prompt: Accepted and not used; `temperature` and `chunking_strategy` likewise.
        response_format: How the answer is written.
        timestamp_granularities: What has times in `verbose_json`; segments, if nothing is said.
        stream: Send the text as server-sent events, once it is there.
    """

    language: Annotated[str, Field(description="What is spoken; must be the model's language.")] | None = None
    prompt: Annotated[str, Field(description="Accepted and not used.")] = ""
    temperature: Annotated[float, Field(ge=0, le=1, description="Accepted and not used.")] = 0.0
    chunking_strategy: Annotated[str, Field(description="Accepted and not used.")] = "auto"
    response_format: Annotated[
        Literal["json", "text", "verbose_json", "srt", "vtt"], Field(description="How the answer is written.")
    ] = "json"
    timestamp_granularities: Annotated[
        tuple[Literal["word", "segment"], ...],
        Field(description="What has times in `verbose_json`; segments, if nothing is said."),
    ] = ()
    stream: Annotated[bool, Field(description="Send server-sent events, once the text is there.")] = False


class TranscriptionsEndpoint(TaskEndpoint):
    """Writes one recording down in the format that the form asks for."""

    path = "/v1/audio/transcriptions"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parameters = TranscriptionParameters

    def is_enveloped(self, content_type: str) -> bool:
        """The body is a form."""
        return True

    def parse(self, content: bytes, content_type: str) -> ParsedBody:
        """Read OpenAI's form.

        Raises:
            InvalidInput: Empty, damaged, or without exactly one file.
            UnsupportedMedia: Not a form.
            ValidationFailed: A field stands there twice.
        """
        if not content:
            raise InvalidInput("the body is empty; send a form with the fields file and model")
        if media_type(content_type) != "multipart/form-data":
            raise UnsupportedMedia("the body must be multipart/form-data with the fields file and model")
        form = read_form(content, content_type)
        if len(form.files) != 1:
            raise InvalidInput(
                f"the form holds {len(form.files)} files; one is transcribed, as a file in the field file",
                param="file",
            )
        return ParsedBody(form.files, form.declared_types, _collect(form.fields))

    def check(self, asked: InferenceRequest) -> None:
        """Refuse what the answer could not hold.

        Raises:
            ValidationFailed: Another language than the model's, or fields that do not go together.
        """
        wanted, version = cast(TranscriptionParameters, asked.parameters), asked.target
        assert version is not None, "the request was prepared"
        language = _language(version)
        if wanted.language and wanted.language.lower().partition("-")[0] != language:
            raise ValidationFailed(
                f"model {version.model} writes down {language!r}, not {wanted.language!r}", param="language"
            )
        if wanted.timestamp_granularities and wanted.response_format != "verbose_json":
            raise ValidationFailed(
                f"{_GRANULARITIES} goes with response_format=verbose_json", param=_GRANULARITIES
            )
        if wanted.stream and wanted.response_format not in ("json", "text"):
            raise ValidationFailed("stream goes with response_format json or text", param="stream")

    def describe(self) -> dict[str, Any]:
        """Return what the OpenAPI document says of request and answer."""
        return transcriptions_operation()

    def answer_model(self) -> None:
        """Return None: `describe` says what the answer is."""

    async def respond(self, asked: InferenceRequest, answer: InferenceAnswer) -> Response:
        """Return the transcript in the requested format."""
        wanted = cast(TranscriptionParameters, asked.parameters)
        transcript = cast(Transcript, answer.results[0])
        if wanted.stream:
            return Response(_events(transcript), media_type="text/event-stream")
        if wanted.response_format in ("json", "verbose_json"):
            content = _json(transcript)
            if wanted.response_format == "verbose_json":
                content = _verbose_json(transcript, wanted, _language(answer.version))
            return Response(orjson.dumps(content), media_type="application/json")
        if wanted.response_format == "text":
            return Response(transcript["text"] + "\n", media_type="text/plain")
        segments = segments_of(transcript["words"])
        if wanted.response_format == "srt":
            return Response(_srt(segments), media_type="application/x-subrip; charset=utf-8")
        return Response(_vtt(segments), media_type="text/vtt")


def segments_of(words: Sequence[Word]) -> list[list[Word]]:
    """Group words for subtitles: a pause begins a new segment, and so does one that grows too long."""
    segments: list[list[Word]] = []
    for word in words:
        if segments and _continues(segments[-1], word):
            segments[-1].append(word)
        else:
            segments.append([word])
    return segments


def _continues(segment: Sequence[Word], word: Word) -> bool:
    letters = sum(len(other["word"]) + 1 for other in segment) + len(word["word"])
    return (
        word["start"] - segment[-1]["end"] <= _PAUSE_SECONDS
        and word["end"] - segment[0]["start"] <= _SEGMENT_SECONDS
        and letters <= _SEGMENT_LETTERS
    )


def _collect(fields: Sequence[tuple[str, str]]) -> dict[str, object]:
    """Return the form's fields by name; the granularities are the only list."""
    found: dict[str, object] = {}
    granularities: list[str] = []
    for name, value in fields:
        if name.removesuffix("[]") == _GRANULARITIES:
            granularities.append(value)
        elif name.startswith("chunking_strategy["):  # the client flattens an object
            continue
        elif found.setdefault(name, value) != value:
            raise InvalidInput(f"{name} stands in the form twice, with different values", param=name)
    return {**found, _GRANULARITIES: granularities} if granularities else found


def _language(version: Version) -> str:
    assert version.facts is not None and version.facts.transcription is not None, "the task is checked"
    return version.facts.transcription.language


def _text(segment: Sequence[Word]) -> str:
    return " ".join(word["word"] for word in segment)


def _usage(transcript: Transcript) -> dict[str, object]:
    return {"type": "duration", "seconds": math.ceil(transcript["duration"])}


def _truncated(transcript: Transcript) -> dict[str, object]:
    return {"truncated": True} if transcript.get("truncated") else {}


def _json(transcript: Transcript) -> dict[str, object]:
    return {"text": transcript["text"], "usage": _usage(transcript), **_truncated(transcript)}


def _verbose_json(
    transcript: Transcript, wanted: TranscriptionParameters, language: str
) -> dict[str, object]:
    content: dict[str, object] = {
        "task": "transcribe",
        "language": language,
        "duration": transcript["duration"],
        **_json(transcript),
    }
    if "word" in wanted.timestamp_granularities:
        content["words"] = [
            {"word": word["word"], "start": word["start"], "end": word["end"]} for word in transcript["words"]
        ]
    if "segment" in wanted.timestamp_granularities or not wanted.timestamp_granularities:
        segments = segments_of(transcript["words"])
        content["segments"] = [_segment(number, segment) for number, segment in enumerate(segments)]
    return content


def _segment(number: int, segment: Sequence[Word]) -> dict[str, object]:
    """Describe a segment with all the fields that OpenAI's have; there are no tokens to show."""
    text = _text(segment)
    scores = [math.log(max(word["confidence"], _NEVER_PROBABLE)) for word in segment]
    return {
        "id": number,
        "seek": int(segment[0]["start"] * 100),
        "start": segment[0]["start"],
        "end": segment[-1]["end"],
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": sum(scores) / len(scores),
        "compression_ratio": len(text.encode()) / len(zlib.compress(text.encode())),
        "no_speech_prob": 0.0,
    }


def _srt(segments: Sequence[Sequence[Word]]) -> str:
    return "".join(
        f"{number}\n{_clock(segment[0]['start'], ',')} --> {_clock(segment[-1]['end'], ',')}\n"
        f"{_text(segment)}\n\n"
        for number, segment in enumerate(segments, start=1)
    )


def _vtt(segments: Sequence[Sequence[Word]]) -> str:
    cues = (
        f"{_clock(segment[0]['start'], '.')} --> {_clock(segment[-1]['end'], '.')}\n{_text(segment)}\n\n"
        for segment in segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def _clock(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"


def _events(transcript: Transcript) -> bytes:
    """Write the text as server-sent events, segment by segment, and then the whole."""
    texts = [_text(segment) for segment in segments_of(transcript["words"])]
    deltas = [text if number == 0 else f" {text}" for number, text in enumerate(texts)]
    events: list[dict[str, object]] = [{"type": "transcript.text.delta", "delta": delta} for delta in deltas]
    events.append({"type": "transcript.text.done", **_json(transcript)})
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def transcriptions_operation() -> dict[str, Any]:
    """Describe the endpoint for the OpenAPI document."""
    fields: dict[str, Any] = TranscriptionParameters.model_json_schema()["properties"]
    fields[f"{_GRANULARITIES}[]"] = fields.pop(_GRANULARITIES)
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary", "description": f"A {FORMATS_TEXT} file."},
            "model": {"type": "string", "description": "Which model; else the default."},
            **fields,
        },
    }
    answer = _object(
        "text",
        text=_TEXT,
        task=_TEXT,
        language=_TEXT,
        duration=_NUMBER,
        words={"type": "array", "items": _object("word", word=_TEXT, start=_NUMBER, end=_NUMBER)},
        segments={
            "type": "array",
            "items": _object("id", id={"type": "integer"}, start=_NUMBER, end=_NUMBER, text=_TEXT),
        },
        truncated={"type": "boolean"},
        usage=_object("type", type={"const": "duration"}, seconds=_NUMBER),
    )
    text = {"schema": _TEXT}
    media = ("text/plain", "text/vtt", "application/x-subrip", "text/event-stream")
    return {
        "summary": "Audio transcriptions",
        "description": "One recording in a form, in OpenAI's shape; the official client works.",
        "operationId": "audio_transcriptions",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {
            "200": {
                "description": "The transcript, as `response_format` asks",
                "content": {"application/json": {"schema": answer}, **dict.fromkeys(media, text)},
            }
        },
    }


def _object(*required: str, **properties: object) -> dict[str, object]:
    return {"type": "object", "required": list(required), "properties": properties}

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.http.v1.transcriptions import segments_of
from service.tasks.audio.speech_recognition import Word
from tests.service.http.conftest import Start
from tests.service.http.v1.test_tasks import assert_error
from tests.tiny_speech_models import RATE, make_speech_model, speak, wav

PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("speech-models")
    make_speech_model(models, "tones")
    return models


@pytest.fixture(scope="module")
def speech_client(start: Start, folder: Path) -> Iterator[TestClient]:
    with start(folder, max_audio_seconds=30.0) as client:
        yield client


def post(client: TestClient, body: bytes | None = None, **fields: Any) -> Any:
    form: Mapping[str, Any] = {"model": "tones", **fields}
    content = wav(speak(["bad", "dad", "had"], pauses=[0.1, 1.0, 0.5])[0]) if body is None else body
    return client.post(PATH, data=form, files={"file": ("a.wav", content, "audio/wav")})


def test_json_is_the_text_and_what_it_cost(speech_client: TestClient) -> None:
    response = post(speech_client)
    assert response.json() == {"text": "bad dad had", "usage": {"type": "duration", "seconds": 3}}


def test_text_is_the_text_alone(speech_client: TestClient) -> None:
    response = post(speech_client, response_format="text")
    assert response.text == "bad dad had\n"
    assert response.headers["content-type"].startswith("text/plain")


def test_verbose_json_has_segments_by_default(speech_client: TestClient) -> None:
    content = post(speech_client, response_format="verbose_json").json()
    assert content["language"] == "en"
    assert content["duration"] == pytest.approx(2.44, abs=0.01)
    assert [segment["text"] for segment in content["segments"]] == ["bad dad", "had"]
    assert [segment["id"] for segment in content["segments"]] == [0, 1]
    assert content["segments"][0]["end"] <= content["segments"][1]["start"]
    assert content["segments"][0]["avg_logprob"] <= 0
    assert "words" not in content


def test_words_have_times_if_they_are_asked_for(speech_client: TestClient) -> None:
    for name in ("timestamp_granularities[]", "timestamp_granularities"):
        content = post(
            speech_client, response_format="verbose_json", **dict[str, Any]({name: ["word"]})
        ).json()
        assert [word["word"] for word in content["words"]] == ["bad", "dad", "had"]
        assert set(content["words"][0]) == {"word", "start", "end"}
        assert "segments" not in content
    both: dict[str, Any] = {"timestamp_granularities[]": ["word", "segment"]}
    content = post(speech_client, response_format="verbose_json", **both).json()
    assert {"words", "segments"} <= content.keys()


def test_subtitles_have_numbered_segments_and_clock_times(speech_client: TestClient) -> None:
    srt = post(speech_client, response_format="srt").text
    clock = r"\d\d:\d\d:\d\d,\d{3}"
    pattern = rf"1\n{clock} --> {clock}\nbad dad\n\n2\n{clock} --> {clock}\nhad\n\n"
    assert re.fullmatch(pattern, srt)
    response = post(speech_client, response_format="vtt")
    assert response.headers["content-type"].startswith("text/vtt")
    assert response.text == "WEBVTT\n\n" + re.sub(r"^\d+\n", "", srt, flags=re.M).replace(",", ".")


def test_a_stream_sends_the_text_in_pieces_and_then_whole(speech_client: TestClient) -> None:
    response = post(speech_client, stream="true")
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert [event["type"] for event in events] == [*["transcript.text.delta"] * 2, "transcript.text.done"]
    assert "".join(event["delta"] for event in events[:-1]) == events[-1]["text"] == "bad dad had"


def test_silence_is_empty_in_every_format(speech_client: TestClient) -> None:
    silence = wav(np.zeros(5 * RATE, dtype=np.float32))
    assert post(speech_client, silence).json()["text"] == ""
    assert post(speech_client, silence, response_format="text").text == "\n"
    assert post(speech_client, silence, response_format="verbose_json").json()["segments"] == []
    assert post(speech_client, silence, response_format="srt").text == ""
    assert post(speech_client, silence, response_format="vtt").text == "WEBVTT\n\n"


def test_fields_that_say_nothing_here_are_taken(speech_client: TestClient) -> None:
    fields: dict[str, Any] = {
        "language": "en",
        "prompt": "numbers",
        "temperature": "0.2",
        "chunking_strategy": "auto",
    }
    assert post(speech_client, **fields).json()["text"] == "bad dad had"
    fields = {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5"}
    assert post(speech_client, **fields).json()["text"] == "bad dad had"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "srt", "timestamp_granularities[]": ["word"]}, "timestamp_granularities"),
        (
            {"response_format": "verbose_json", "timestamp_granularities[]": ["letter"]},
            "timestamp_granularities.0",
        ),
        ({"response_format": "vtt", "stream": "true"}, "stream"),
        ({"temperature": "2"}, "temperature"),
        ({"language": "de"}, "language"),
        ({"include[]": ["logprobs"]}, "include[]"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    speech_client: TestClient, fields: dict[str, Any], param: str
) -> None:
    assert_error(post(speech_client, **fields), 422, "validation_error", param=param)


def test_an_unknown_model_is_not_found(speech_client: TestClient) -> None:
    assert_error(post(speech_client, model="whisper-1"), 404, "not_found", param="model")


def test_a_body_that_is_no_form_with_one_file_is_refused(speech_client: TestClient) -> None:
    assert_error(speech_client.post(PATH), 400, "invalid_input")
    assert_error(speech_client.post(PATH, json={"model": "tones"}), 415, "unsupported_media")
    assert_error(post(speech_client, b""), 400, "invalid_input", param="inputs[0]")
    no_file = {"model": (None, "tones")}
    assert_error(speech_client.post(PATH, files=no_file), 400, "invalid_input", param="file")
    two = [("file", ("a.wav", b"x")), ("file", ("b.wav", b"x"))]
    assert_error(speech_client.post(PATH, files=two), 400, "invalid_input", param="file")


def test_a_field_that_stands_there_twice_is_refused(speech_client: TestClient) -> None:
    response = post(speech_client, response_format=["json", "text"])
    assert_error(response, 400, "invalid_input", param="response_format")


def test_segments_end_at_pauses_and_before_they_grow_too_long() -> None:
    def word(number: int, start: float) -> Word:
        return Word(word=f"word{number}", start=start, end=start + 0.3, confidence=0.9)

    steady = [word(number, 0.5 * number) for number in range(40)]
    for segment in segments_of(steady):
        assert segment[-1]["end"] - segment[0]["start"] <= 7.0
    assert [w for segment in segments_of(steady) for w in segment] == steady
    paused = [word(0, 0.0), word(1, 0.4), word(2, 2.0)]
    assert [len(segment) for segment in segments_of(paused)] == [2, 1]
    assert segments_of([]) == []


def test_the_document_describes_the_form_the_answer_and_the_errors(speech_client: TestClient) -> None:
    operation = speech_client.get("/openapi.json").json()["paths"][PATH]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"file", "model", "response_format", "timestamp_granularities[]", "stream"} <= form[
        "properties"
    ].keys()
    assert "FLAC" in form["properties"]["file"]["description"]
    assert {"200", "400", "404", "413", "415", "422", "429", "504"} <= operation["responses"].keys()
    described = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
    both: dict[str, Any] = {"timestamp_granularities[]": ["word", "segment"]}
    content = post(speech_client, response_format="verbose_json", **both).json()
    assert content.keys() <= described.keys()
    assert content["words"][0].keys() == described["words"]["items"]["properties"].keys()

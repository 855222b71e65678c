from __future__ import annotations

import base64
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.repository.manifest import Batching
from service.tasks.audio.waveform import _Resampler
from tests.service.http.conftest import Start
from tests.service.http.v1.test_tasks import assert_error
from tests.service.tasks.audio_files import SAID, claiming, endless_mp3, recording
from tests.tiny_speech_models import (
    KEYWORD_SECONDS,
    LABELS,
    RATE,
    WORDS,
    keyword_probabilities,
    make_keyword_model,
    make_speech_model,
    speak,
    tone,
    wav,
)

RECOGNISE = "/v1/speech-recognition"
CLASSIFY = "/v1/audio-classification"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("speech-models")
    make_speech_model(models, "tones", default=True)
    make_speech_model(models, "speller", words=False)
    make_speech_model(models, "hurried", deadline_seconds=1e-6, deadline_per_second=0.0)
    make_speech_model(models, "patient", deadline_seconds=1e-3, deadline_per_second=100.0)
    make_speech_model(models, "narrow", batching=Batching(max_items=8, max_queue_items=3))
    make_keyword_model(models, "letters")
    return models


@pytest.fixture(scope="module")
def speech_client(start: Start, folder: Path) -> Iterator[TestClient]:
    with start(folder, max_audio_seconds=30.0) as client:
        yield client


def recognised(client: TestClient, body: bytes, query: str = "", **headers: str) -> dict[str, Any]:
    response = client.post(RECOGNISE + query, content=body, headers=headers)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["results"][0]
    return result


class TestRecognition:
    def test_words_come_with_their_times(self, speech_client: TestClient) -> None:
        samples, times = speak(["bad", "dad", "had"], pauses=0.2)
        result = recognised(speech_client, wav(samples))
        assert result["text"] == "bad dad had"
        assert result["duration"] == pytest.approx(len(samples) / RATE, abs=1e-3)
        for word, (start, end) in zip(result["words"], times, strict=True):
            assert word["start"] == pytest.approx(start, abs=0.08)
            assert word["end"] == pytest.approx(end, abs=0.08)
            assert 0.9 < word["confidence"] <= 1
        assert "truncated" not in result

    def test_one_request_takes_several_recordings(self, speech_client: TestClient) -> None:
        said = [["bad"], ["head", "dad"], ["cab"]]
        inputs = [base64.b64encode(wav(speak(words)[0])).decode() for words in said]
        answer = speech_client.post(RECOGNISE, json={"inputs": inputs}).json()
        assert [result["text"] for result in answer["results"]] == [" ".join(words) for words in said]
        assert answer["task"] == "speech-recognition"

    def test_times_can_be_left_out(self, speech_client: TestClient) -> None:
        assert "words" not in recognised(speech_client, wav(speak(["bad"])[0]), "?timestamps=none")

    def test_the_word_list_mends_what_spelling_alone_gets_wrong(self, speech_client: TestClient) -> None:
        body = wav(speak(["hed", "dad"])[0])  # the list has head
        assert recognised(speech_client, body, "?search=greedy")["text"] == "hed dad"
        assert set(recognised(speech_client, body)["text"].split()) <= set(WORDS)

    def test_a_model_without_a_list_cannot_search_words(self, speech_client: TestClient) -> None:
        body = wav(speak(["hed"])[0])
        assert recognised(speech_client, body, "?model=speller")["text"] == "hed"
        response = speech_client.post(RECOGNISE + "?model=speller&search=words", content=body)
        assert_error(response, 422, "validation_error", param="inputs[0]")

    @pytest.mark.parametrize("query", ["timestamps=letters", "search=magic", "truncate=perhaps", "beam=3"])
    def test_a_parameter_out_of_range_is_refused(self, speech_client: TestClient, query: str) -> None:
        response = speech_client.post(f"{RECOGNISE}?{query}", content=wav(speak(["bad"])[0]))
        assert_error(response, 422, "validation_error", param=query.partition("=")[0])

    def test_a_long_recording_becomes_many_items_of_one_answer(self, speech_client: TestClient) -> None:
        words = list(np.random.default_rng(0).choice(WORDS, 60))
        samples, times = speak(words, pauses=[0.0, 0.3] * 30)
        result = recognised(speech_client, wav(samples))
        assert result["text"].split() == words
        assert [word["start"] for word in result["words"]] == pytest.approx([a for a, _ in times], abs=0.1)

    def test_silence_is_an_empty_text(self, speech_client: TestClient) -> None:
        result = recognised(speech_client, wav(np.zeros(20 * RATE, dtype=np.float32)))
        assert result == {"text": "", "words": [], "duration": 20.0}

    def test_silence_among_others_takes_nothing_from_them(self, speech_client: TestClient) -> None:
        bodies = [wav(np.zeros(RATE, dtype=np.float32)), wav(speak(["bad"])[0])]
        inputs = [base64.b64encode(body).decode() for body in bodies]
        results = speech_client.post(RECOGNISE, json={"inputs": inputs}).json()["results"]
        assert [result["text"] for result in results] == ["", "bad"]

    def test_too_long_a_recording_is_refused_or_cut(self, speech_client: TestClient) -> None:
        words = ["bad"] * 130
        body = wav(speak(words)[0])
        response = speech_client.post(RECOGNISE, content=body)
        assert "30 seconds" in assert_error(response, 413, "too_large", param="inputs[0]")
        result = recognised(speech_client, body, "?truncate=true")
        assert result["truncated"] is True
        assert result["duration"] == 30.0
        assert 100 < len(result["words"]) < 130

    def test_more_pieces_than_the_queue_holds_are_refused(self, speech_client: TestClient) -> None:
        body = wav(speak(["bad"] * 80)[0])
        response = speech_client.post(RECOGNISE + "?model=narrow", content=body)
        assert_error(response, 413, "too_large")


class TestDeadline:
    def test_it_grows_with_the_recording(self, speech_client: TestClient) -> None:
        body = wav(speak(["bad"] * 20)[0])
        assert recognised(speech_client, body, "?model=patient")["text"].startswith("bad bad")
        # Which of the two depends on whether its time has passed before admission can predict it.
        assert speech_client.post(RECOGNISE + "?model=hurried", content=body).status_code in (429, 504)

    def test_the_header_wins(self, speech_client: TestClient) -> None:
        body = wav(speak(["bad"])[0])
        assert recognised(speech_client, body, "?model=hurried", **{"X-Timeout-Ms": "20000"})["text"] == "bad"
        response = speech_client.post(
            RECOGNISE + "?model=patient", content=body, headers={"X-Timeout-Ms": "0.001"}
        )
        assert response.status_code in (429, 504)


class TestBadInput:
    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b"", 400, "invalid_input"),
            (b"this is no sound at all", 400, "invalid_input"),
            (b"\x89PNG\r\n\x1a\n" + bytes(100), 415, "unsupported_media"),
            (wav(np.zeros(0, dtype=np.float32)), 400, "invalid_input"),
            (wav(np.full(100, np.nan, dtype=np.float32), subtype="FLOAT"), 400, "invalid_input"),
            (wav(speak(["bad"])[0])[:20], 400, "invalid_input"),
        ],
        ids=["empty", "text", "picture", "0 samples", "NaN", "cut header"],
    )
    @pytest.mark.parametrize("path", [RECOGNISE, CLASSIFY])
    def test_it_gets_the_right_error(
        self, speech_client: TestClient, path: str, body: bytes, status: int, code: str
    ) -> None:
        response = speech_client.post(path, content=body)
        assert_error(response, status, code, param="inputs[0]" if body else None)

    @pytest.mark.parametrize(
        "body",
        [
            recording(16_000, channels=8),
            recording(4000),
            recording(192_000),
            claiming(recording(), 0),
            claiming(recording(), 2**32 - 1),
        ],
        ids=["8 channels", "4 kHz", "192 kHz", "claims nothing", "claims too much"],
    )
    def test_what_is_odd_but_sound_is_answered(self, speech_client: TestClient, body: bytes) -> None:
        assert recognised(speech_client, body)["text"] == " ".join(SAID)

    @pytest.mark.parametrize("path", [RECOGNISE, CLASSIFY])
    def test_three_hours_in_a_few_megabytes_are_too_long(self, speech_client: TestClient, path: str) -> None:
        response = speech_client.post(path, content=endless_mp3(3 * 3600))
        assert_error(response, 413, "too_large", param="inputs[0]")

    def test_nothing_that_was_decoded_outlives_the_error(self, speech_client: TestClient) -> None:
        body = endless_mp3(3 * 3600)
        gc.collect()
        gc.disable()  # what lies in a ring would be found only later
        try:
            assert_error(speech_client.post(RECOGNISE, content=body), 413, "too_large", param="inputs[0]")
            assert not [thing for thing in gc.get_objects() if type(thing) is _Resampler]
        finally:
            gc.enable()

    def test_recordings_are_not_longer_in_all_than_one_may_be(self, speech_client: TestClient) -> None:
        file = base64.b64encode(wav(np.zeros(20 * RATE, dtype=np.float32), format="FLAC")).decode()
        assert speech_client.post(RECOGNISE, json={"inputs": [file]}).status_code == 200
        response = speech_client.post(RECOGNISE, json={"inputs": [file] * 9})
        assert "in all" in assert_error(response, 413, "too_large", param="inputs")

    def test_the_item_at_fault_is_named(self, speech_client: TestClient) -> None:
        good = base64.b64encode(wav(speak(["bad"])[0])).decode()
        bad = base64.b64encode(b"nothing").decode()
        response = speech_client.post(RECOGNISE, json={"inputs": [good, bad, good]})
        assert_error(response, 400, "invalid_input", param="inputs[1]")
        response = speech_client.post(RECOGNISE, json={"inputs": [good, 3]})
        assert_error(response, 400, "invalid_input", param="inputs[1]")


class TestClassification:
    def test_labels_come_with_their_probabilities(self, speech_client: TestClient) -> None:
        sound = tone("c", 0.4)
        response = speech_client.post(CLASSIFY + "?top_k=9", content=wav(sound))
        predictions = response.json()["results"][0]["predictions"]
        expected = keyword_probabilities(sound)
        assert predictions[0]["label"] == "c"
        assert {p["label"]: p["score"] for p in predictions} == pytest.approx(
            dict(zip(LABELS, map(float, expected), strict=True)), abs=1e-3
        )

    def test_too_long_a_sound_is_refused_or_cut(self, speech_client: TestClient) -> None:
        body = wav(tone("d", KEYWORD_SECONDS + 0.5))
        response = speech_client.post(CLASSIFY, content=body)
        assert_error(response, 413, "too_large", param="inputs[0]")
        result = speech_client.post(CLASSIFY + "?truncate=true", content=body).json()["results"][0]
        assert result["truncated"] is True
        assert result["predictions"][0]["label"] == "d"


def test_the_document_describes_the_endpoints(speech_client: TestClient) -> None:
    paths = speech_client.get("/openapi.json").json()["paths"]
    assert {RECOGNISE, CLASSIFY, "/v1/audio/transcriptions"} <= paths.keys()
    names = {parameter["name"] for parameter in paths[RECOGNISE]["post"]["parameters"]}
    assert {"timestamps", "search", "truncate", "model", "X-Timeout-Ms"} <= names

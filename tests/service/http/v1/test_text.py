from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.service.http.conftest import Start
from tests.service.http.v1.test_tasks import assert_error
from tests.tiny_models import picture
from tests.tiny_text_models import LABELS, MAX_TOKENS, SIZE, embedding, make_text_model, probabilities

CLASSIFY = "/v1/text-classification"
EMBED = "/v1/embeddings"
ODD_TEXTS = {
    "right to left": "\u0634\u0643\u0631\u0627 \u05e9\u05dc\u05d5\u05dd",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e0062",
    "combining marks": "e\u0301\u0323 Z\u0351\u036b\u0343",
    "nul": "a\x00b",
    "unassigned and private": "\u0378\ue000\U0010ffff",
    "one character": "x",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("text-models")
    make_text_model(models, "languages", "text-classification", default=True)
    make_text_model(models, "vectors", "text-embedding")
    return models


@pytest.fixture(scope="module")
def text_client(start: Start, folder: Path) -> Iterator[TestClient]:
    with start(folder) as client:
        yield client


def scores(result: dict[str, Any]) -> list[float]:
    by_label = {p["label"]: p["score"] for p in result["predictions"]}
    return [by_label[label] for label in LABELS]


class TestClassification:
    def test_a_raw_text_needs_no_content_type(self, text_client: TestClient) -> None:
        for headers in ({}, {"content-type": "text/plain; charset=utf-8"}):
            response = text_client.post(CLASSIFY, content=b"godmorgen", headers=headers)
            assert scores(response.json()["results"][0]) == pytest.approx(
                probabilities("godmorgen"), abs=1e-5
            )

    def test_json_takes_one_text_or_a_list(self, text_client: TestClient) -> None:
        texts = ["a", "a much longer text than the first", "\u65e5\u672c\u8a9e"]
        results = text_client.post(CLASSIFY, json={"inputs": texts}).json()["results"]
        for text, result in zip(texts, results, strict=True):
            assert scores(result) == pytest.approx(probabilities(text), abs=1e-5)
        one = text_client.post(CLASSIFY, json={"inputs": "a", "parameters": {"top_k": 1}}).json()["results"]
        assert one == [{"predictions": results[0]["predictions"][:1]}]

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
    def test_any_writing_is_answered_and_alone_equals_in_a_padded_batch(
        self, text_client: TestClient, text: str
    ) -> None:
        alone = text_client.post(CLASSIFY, content=text.encode()).json()["results"][0]
        batch = text_client.post(CLASSIFY, json={"inputs": [text, "y" * 90]}).json()["results"][0]
        assert scores(alone) == pytest.approx(scores(batch), abs=1e-5)
        assert scores(alone) == pytest.approx(probabilities(text), abs=1e-5)

    def test_a_long_text_is_refused_or_cut_and_marked(self, text_client: TestClient) -> None:
        text = "word " * 40
        message = assert_error(
            text_client.post(CLASSIFY, content=text.encode()), 413, "too_large", "inputs[0]"
        )
        assert str(MAX_TOKENS) in message and "truncate" in message
        cut = text_client.post(f"{CLASSIFY}?truncate=true", content=text.encode()).json()["results"][0]
        assert cut["truncated"] is True
        assert scores(cut) == pytest.approx(probabilities(text[:MAX_TOKENS]), abs=1e-5)
        short = text_client.post(f"{CLASSIFY}?truncate=true", content=b"short").json()["results"][0]
        assert "truncated" not in short

    def test_ten_megabytes_are_refused_or_cut_without_being_tokenised_whole(
        self, text_client: TestClient
    ) -> None:
        text = b"word " * 2_000_000
        assert_error(text_client.post(CLASSIFY, content=text), 413, "too_large", "inputs[0]")
        assert text_client.post(f"{CLASSIFY}?truncate=true", content=text).json()["results"][0]["truncated"]

    @pytest.mark.parametrize("text", ["", " ", "\n\t \u3000"])
    def test_a_text_of_nothing_or_spaces_is_refused(self, text_client: TestClient, text: str) -> None:
        response = text_client.post(CLASSIFY, json={"inputs": ["ok", text]})
        assert "empty" in assert_error(response, 400, "invalid_input", "inputs[1]")
        assert text_client.post(CLASSIFY, content=text.encode()).status_code == 400

    def test_bytes_that_are_not_utf8_are_refused(self, text_client: TestClient) -> None:
        response = text_client.post(CLASSIFY, content=b"caf\xe9 au lait")
        assert "byte 3" in assert_error(response, 400, "invalid_input", "inputs[0]")

    @pytest.mark.parametrize("text", ["BMW and others", "SQLite format", "GIF8 is a word", "%PDF-1.7"])
    def test_a_text_may_begin_like_another_kind_of_file(self, text_client: TestClient, text: str) -> None:
        assert text_client.post(CLASSIFY, content=text.encode()).status_code == 200

    def test_a_picture_is_not_a_text(self, text_client: TestClient) -> None:
        response = text_client.post(CLASSIFY, content=picture(1))
        assert "image/png" in assert_error(response, 415, "unsupported_media", "inputs[0]")

    def test_a_lone_surrogate_in_json_is_refused(self, text_client: TestClient) -> None:
        headers = {"content-type": "application/json"}
        response = text_client.post(CLASSIFY, content=b'{"inputs": "\\ud800"}', headers=headers)
        assert_error(response, 400, "invalid_input")

    def test_a_hundred_thousand_items_are_refused(self, text_client: TestClient) -> None:
        response = text_client.post(CLASSIFY, json={"inputs": ["x"] * 100_000})
        assert "2048" in assert_error(response, 413, "too_large", "inputs")

    def test_token_ids_are_refused(self, text_client: TestClient) -> None:
        response = text_client.post(CLASSIFY, json={"inputs": [[1, 2, 3]]})
        assert "token ids" in assert_error(response, 400, "invalid_input", "inputs[0]")

    def test_below_the_threshold_the_answer_is_unknown(self, tmp_path: Path, start: Start) -> None:
        make_text_model(tmp_path, "unsure", "text-classification", unknown_below=0.999)
        with start(tmp_path) as client:
            result = client.post(f"{CLASSIFY}?top_k=9", content=b"hello").json()["results"][0]
            best = float(probabilities("hello").max())
            assert result["predictions"][0] == {
                "label": "unknown",
                "score": pytest.approx(1 - best, abs=1e-5),
            }
            assert [p["label"] for p in result["predictions"][1:]] == [
                LABELS[i] for i in np.argsort(-probabilities("hello"))
            ]


class TestEmbeddings:
    def embed(self, client: TestClient, **request: Any) -> Any:
        return client.post(EMBED, json={"model": "vectors", **request})

    def test_a_list_is_embedded_in_its_order_in_openais_shape(self, text_client: TestClient) -> None:
        texts = ["one", "two words", "three little words"]
        answer = self.embed(text_client, input=texts).json()
        assert answer["object"] == "list" and answer["model"] == "vectors"
        assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
        assert {entry["object"] for entry in answer["data"]} == {"embedding"}
        for text, entry in zip(texts, answer["data"], strict=True):
            assert entry["embedding"] == pytest.approx(embedding(text).tolist(), abs=1e-5)
        tokens = sum(map(len, texts))
        assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}

    def test_base64_and_float_give_the_same_vector(self, text_client: TestClient) -> None:
        plain = self.embed(text_client, input="hello", encoding_format="float").json()["data"][0]
        packed = self.embed(text_client, input="hello", encoding_format="base64").json()["data"][0]
        numbers = struct.unpack(f"<{SIZE}f", base64.b64decode(packed["embedding"]))
        assert list(numbers) == pytest.approx(plain["embedding"], abs=1e-7)

    def test_fewer_dimensions_are_the_leading_ones_with_length_1(self, text_client: TestClient) -> None:
        short = np.array(self.embed(text_client, input="hello", dimensions=5).json()["data"][0]["embedding"])
        kept = embedding("hello")[:5]
        assert short == pytest.approx(kept / np.linalg.norm(kept), abs=1e-5)

    def test_more_dimensions_than_there_are_is_422(self, text_client: TestClient) -> None:
        for dimensions in (SIZE + 1, 0, -1):
            response = self.embed(text_client, input="hello", dimensions=dimensions)
            assert response.status_code == 422
            assert response.json()["error"]["code"] == "validation_error"

    def test_the_model_may_be_left_out_where_there_is_one(self, text_client: TestClient) -> None:
        assert text_client.post(EMBED, json={"input": "x"}).json()["model"] == "vectors"

    def test_the_content_type_does_not_matter(self, text_client: TestClient) -> None:
        assert text_client.post(EMBED, content=b'{"input": "x"}').status_code == 200

    @pytest.mark.parametrize(
        ("request_body", "status", "code", "param"),
        [
            ({"input": [1, 2, 3]}, 400, "invalid_input", "inputs[0]"),
            ({"input": [[1, 2], [3]]}, 400, "invalid_input", "inputs[0]"),
            ({"input": ["ok", ""]}, 400, "invalid_input", "inputs[1]"),
            ({"input": []}, 400, "invalid_input", "input"),
            ({}, 422, "validation_error", "input"),
            ({"input": "x", "model": "nope"}, 404, "not_found", "model"),
            ({"input": "x", "encoding_format": "int8"}, 422, "validation_error", "encoding_format"),
            ({"input": "x", "colour": "red"}, 422, "validation_error", "colour"),
            ({"input": "x" * 200}, 413, "too_large", "inputs[0]"),
            ({"input": ["x"] * 3000}, 413, "too_large", "input"),
        ],
    )
    def test_bad_requests(
        self, text_client: TestClient, request_body: Any, status: int, code: str, param: str
    ) -> None:
        assert_error(text_client.post(EMBED, json=request_body), status, code, param)

    def test_a_body_that_is_no_json_or_empty(self, text_client: TestClient) -> None:
        assert_error(text_client.post(EMBED, content=b"hello"), 400, "invalid_input")
        assert_error(text_client.post(EMBED, content=b""), 400, "invalid_input")
        assert_error(text_client.post(EMBED, content=b"[]"), 400, "invalid_input")

    def test_a_cut_text_says_so(self, text_client: TestClient) -> None:
        entry = self.embed(text_client, input="x" * 200, truncate=True).json()["data"][0]
        assert entry["truncated"] is True

    def test_the_route_is_in_the_openapi_document(self, text_client: TestClient) -> None:
        paths = text_client.get("/openapi.json").json()["paths"]
        assert EMBED in paths and CLASSIFY in paths
        assert "/v1/text-embedding" not in paths

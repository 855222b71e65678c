from __future__ import annotations

import base64
import re
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.engine.queue.batcher import Batcher
from service.errors import Overloaded
from service.repository.manifest import Batching
from tests.service.http.conftest import Start
from tests.tiny_models import LABELS, SPEC, make_model, picture, probabilities

ROUTE = "/v1/image-classification"
JSON = {"content-type": "application/json"}


def b64(body: bytes) -> str:
    return base64.b64encode(body).decode()


def scores(result: dict[str, Any]) -> dict[str, float]:
    return {p["label"]: p["score"] for p in result["predictions"]}


def expected(raw: bytes) -> dict[str, float]:
    from service.tasks.image.preprocessing import decode_image

    row = probabilities(decode_image(raw, SPEC, max_pixels=10**9)[np.newaxis])[0]
    return dict(zip(LABELS, map(float, row), strict=True))


def huge_png() -> bytes:
    """A PNG of a few kB that says it has 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(3751 * 400))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def assert_error(response: Any, status: int, code: str, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param", "request_id"}
    assert error["code"] == code
    assert error["param"] == param
    assert error["request_id"] == response.headers["x-request-id"]
    kind = "server_error" if status >= 500 else "invalid_request_error"
    assert error["type"] == ("rate_limit_error" if status == 429 else kind)
    message: str = error["message"]
    return message


class TestBodies:
    def test_a_raw_picture_without_a_content_type_is_answered(self, client: TestClient) -> None:
        raw = picture(3)
        response = client.post(ROUTE, content=raw)
        assert response.status_code == 200
        answer = response.json()
        assert answer["id"] == response.headers["x-request-id"]
        assert (answer["model"], answer["version"], answer["task"]) == ("tiny", "1", "image-classification")
        assert scores(answer["results"][0]) == pytest.approx(expected(raw), abs=1e-5)
        ordered = [p["score"] for p in answer["results"][0]["predictions"]]
        assert ordered == sorted(ordered, reverse=True)

    @pytest.mark.parametrize(
        "content_type",
        [
            "image/png",
            "image/jpeg",
            "application/octet-stream",
            "application/x-www-form-urlencoded",
            "text/plain",
        ],
    )
    def test_the_bytes_decide_whatever_the_content_type_says(
        self, client: TestClient, content_type: str
    ) -> None:
        response = client.post(ROUTE, content=picture(3), headers={"content-type": content_type})
        assert response.status_code == 200

    def test_a_form_with_several_files_gives_results_in_their_order(self, client: TestClient) -> None:
        raws = [picture(seed) for seed in range(5)]
        response = client.post(ROUTE, files=[("file", ("x.png", raw, "image/png")) for raw in raws])
        results = response.json()["results"]
        assert [scores(r) for r in results] == [pytest.approx(expected(raw), abs=1e-5) for raw in raws]

    def test_form_fields_are_parameters(self, client: TestClient) -> None:
        response = client.post(ROUTE, files={"file": picture(1)}, data={"top_k": "2"})
        assert len(response.json()["results"][0]["predictions"]) == 2

    def test_json_takes_one_base64_file_or_a_list(self, client: TestClient) -> None:
        one = client.post(ROUTE, json={"inputs": b64(picture(1))}).json()
        two = client.post(ROUTE, json={"inputs": [b64(picture(1)), b64(picture(2))]}).json()
        assert len(one["results"]) == 1
        assert [scores(r) for r in two["results"]] == [
            pytest.approx(expected(picture(seed)), abs=1e-5) for seed in (1, 2)
        ]
        assert one["results"][0] == two["results"][0]

    def test_top_k_may_stand_in_the_query_or_in_parameters(self, client: TestClient) -> None:
        body = {"inputs": b64(picture(1)), "parameters": {"top_k": 2}}
        for response in (
            client.post(f"{ROUTE}?top_k=2", content=picture(1)),
            client.post(ROUTE, json=body),
            client.post(f"{ROUTE}?top_k=2", json=body),
        ):
            assert len(response.json()["results"][0]["predictions"]) == 2

    def test_more_than_all_labels_gives_them_all(self, client: TestClient) -> None:
        response = client.post(f"{ROUTE}?top_k=999", content=picture(1))
        assert len(response.json()["results"][0]["predictions"]) == len(LABELS)

    def test_model_and_version_may_be_named(self, client: TestClient) -> None:
        assert client.post(f"{ROUTE}?model=tiny&version=1", content=picture(1)).status_code == 200
        body = {"inputs": b64(picture(1)), "parameters": {"model": "tiny", "version": 1}}
        assert client.post(ROUTE, json=body).status_code == 200

    def test_a_clients_request_id_is_kept_and_a_bad_one_replaced(self, client: TestClient) -> None:
        kept = client.post(ROUTE, content=picture(1), headers={"x-request-id": "abc-1"})
        assert kept.headers["x-request-id"] == "abc-1" == kept.json()["id"]
        replaced = client.post(ROUTE, content=picture(1), headers={"x-request-id": "x" * 200})
        assert re.fullmatch("[0-9a-f]{32}", replaced.headers["x-request-id"])


class TestBadInput:
    """Each row of the error table; the next request is answered as before."""

    @pytest.fixture(autouse=True)
    def _then_the_server_answers_as_before(self, client: TestClient) -> Any:
        yield
        assert client.post(ROUTE, content=picture(1)).status_code == 200

    def test_an_empty_body(self, client: TestClient) -> None:
        assert "empty" in assert_error(client.post(ROUTE), 400, "invalid_input")

    def test_a_text_file_named_png(self, client: TestClient) -> None:
        response = client.post(ROUTE, files={"file": ("digit.png", b"not a picture", "image/png")})
        assert "PNG" in assert_error(response, 400, "invalid_input", "inputs[0]")

    def test_a_truncated_jpeg(self, client: TestClient) -> None:
        raw = picture(1, size=64, format="JPEG")
        assert_error(client.post(ROUTE, content=raw[: len(raw) // 2]), 400, "invalid_input", "inputs[0]")

    def test_a_picture_of_too_many_pixels_in_a_few_bytes(self, client: TestClient) -> None:
        raw = huge_png()
        assert len(raw) < 10_000
        message = assert_error(client.post(ROUTE, content=raw), 413, "too_large", "inputs[0]")
        assert "30000 x 30000" in message and "50000000" in message

    def test_a_body_over_the_limit_stated_or_not(self, start: Start) -> None:
        with start(max_body_bytes=2048) as client:
            assert "2048" in assert_error(client.post(ROUTE, content=bytes(4096)), 413, "too_large")
            streamed = client.post(ROUTE, content=(bytes(512) for _ in range(8)))
            assert "2048" in assert_error(streamed, 413, "too_large")
            assert client.post(ROUTE, content=picture(1)).status_code == 200

    def test_an_unknown_model_names_those_that_exist(self, client: TestClient) -> None:
        response = client.post(f"{ROUTE}?model=nope", content=picture(1))
        assert "tiny" in assert_error(response, 404, "not_found", "model")

    @pytest.mark.parametrize("version", ["2", "x", "-1", "٣"])
    def test_an_unknown_version(self, client: TestClient, version: str) -> None:
        response = client.post(ROUTE, params={"version": version}, content=picture(1))
        assert_error(response, 404, "not_found", "version")

    @pytest.mark.parametrize("top_k", ["0", "-3", "many", "1.5", ""])
    def test_top_k_out_of_range(self, client: TestClient, top_k: str) -> None:
        response = client.post(f"{ROUTE}?top_k={top_k}", content=picture(1))
        assert_error(response, 422, "validation_error", "top_k")

    def test_a_parameter_that_does_not_exist_is_named_with_those_that_do(self, client: TestClient) -> None:
        message = assert_error(
            client.post(f"{ROUTE}?topk=2", content=picture(1)), 422, "validation_error", "topk"
        )
        assert "top_k" in message

    def test_words_of_a_client_are_cut_in_answers_and_logs(
        self, client: TestClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        long = "A" * 100_000
        with caplog.at_level("INFO"):
            for response in (
                client.post(ROUTE, json={long: 1}),
                client.post(ROUTE, json={"inputs": "x", "parameters": {"model": long}}),
                client.post(ROUTE, json={"inputs": "x", "parameters": {long: 1}}),
            ):
                assert 400 <= response.status_code < 500
                assert len(response.content) < 2000
        assert all(len(str(vars(record))) < 5000 for record in caplog.records)

    def test_a_query_that_contradicts_itself(self, client: TestClient) -> None:
        response = client.post(f"{ROUTE}?top_k=2&top_k=3", content=picture(1))
        assert_error(response, 400, "invalid_input", "top_k")
        assert client.post(f"{ROUTE}?top_k=2&top_k=2", content=picture(1)).status_code == 200

    def test_one_parameter_with_two_values(self, client: TestClient) -> None:
        body = {"inputs": b64(picture(1)), "parameters": {"top_k": 3}}
        assert_error(client.post(f"{ROUTE}?top_k=2", json=body), 400, "invalid_input", "top_k")

    @pytest.mark.parametrize(
        ("raw", "kind"),
        [
            (b"%PDF-1.7\n" + bytes(300), "application/pdf"),
            (b"RIFF\x24\x08\x00\x00WAVEfmt " + bytes(300), "wav"),
            (b"PK\x03\x04" + bytes(300), "zip"),
        ],
    )
    def test_media_that_we_know_but_do_not_decode(self, client: TestClient, raw: bytes, kind: str) -> None:
        response = client.post(ROUTE, content=raw)
        assert kind in assert_error(response, 415, "unsupported_media", "inputs[0]")

    def test_a_wrong_media_type_on_bytes_that_say_nothing(self, client: TestClient) -> None:
        response = client.post(ROUTE, content=b"abc", headers={"content-type": "audio/flac"})
        assert "audio/flac" in assert_error(response, 415, "unsupported_media", "inputs[0]")

    def test_a_compressed_body(self, client: TestClient) -> None:
        response = client.post(ROUTE, content=picture(1), headers={"content-encoding": "gzip"})
        assert "gzip" in assert_error(response, 415, "unsupported_media")

    def test_broken_json(self, client: TestClient) -> None:
        assert_error(client.post(ROUTE, content=b'{"inputs": ', headers=JSON), 400, "invalid_input")
        assert_error(client.post(ROUTE, content=b"[1]", headers=JSON), 400, "invalid_input")

    def test_base64_that_is_not(self, client: TestClient) -> None:
        body = {"inputs": [b64(picture(1)), "%%%"]}
        assert "base64" in assert_error(client.post(ROUTE, json=body), 400, "invalid_input", "inputs[1]")
        assert_error(client.post(ROUTE, json={"inputs": [7]}), 400, "invalid_input", "inputs[0]")

    def test_json_without_inputs_with_none_or_with_a_field_too_many(self, client: TestClient) -> None:
        assert_error(client.post(ROUTE, json={}), 422, "validation_error", "inputs")
        assert_error(client.post(ROUTE, json={"inputs": []}), 400, "invalid_input", "inputs")
        body: dict[str, object] = {"inputs": b64(picture(1)), "parameter": {}}
        assert_error(client.post(ROUTE, json=body), 422, "validation_error", "parameter")
        body = {"inputs": b64(picture(1)), "parameters": 3}
        assert_error(client.post(ROUTE, json=body), 422, "validation_error", "parameters")

    def test_nine_good_pictures_and_one_bad(self, client: TestClient) -> None:
        items = "kotae_batch_items_count"
        before = re.findall(rf"{items}.*", client.get("/metrics").text)
        raws = [*(picture(seed) for seed in range(9)), b"junk"]
        response = client.post(ROUTE, files=[("file", ("x.png", raw)) for raw in raws])
        assert "inputs[9]" in assert_error(response, 400, "invalid_input", "inputs[9]")
        assert re.findall(rf"{items}.*", client.get("/metrics").text) == before, "nothing of it ran"

    def test_too_many_items(self, start: Start) -> None:
        with start(max_items_per_request=3) as client:
            response = client.post(ROUTE, json={"inputs": ["x"] * 4})
            assert "3" in assert_error(response, 413, "too_large", "inputs")
            files = [("file", ("x.png", picture(1))) for _ in range(4)]
            assert_error(client.post(ROUTE, files=files), 413, "too_large", "inputs")

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=b", b"x"),
            (
                "multipart/form-data; boundary=b",
                b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nab',
            ),
            ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n"),
            ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ],
    )
    def test_a_broken_form(self, client: TestClient, content_type: str, body: bytes) -> None:
        response = client.post(ROUTE, content=body, headers={"content-type": content_type})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_input"

    def test_a_file_in_a_field_of_another_name(self, client: TestClient) -> None:
        response = client.post(ROUTE, files={"image": picture(1)})
        assert "file" in assert_error(response, 422, "validation_error", "image")

    @pytest.mark.parametrize("header", ["0", "-1", "soon", "nan", "1e99"])
    def test_a_deadline_that_is_none(self, client: TestClient, header: str) -> None:
        response = client.post(ROUTE, content=picture(1), headers={"x-timeout-ms": header})
        assert_error(response, 422, "validation_error", "X-Timeout-Ms")

    def test_what_waits_for_a_decoding_thread_past_its_deadline_is_answered_and_not_decoded(
        self, start: Start
    ) -> None:
        with start(decode_threads=1) as client:
            gate, decoded = threading.Event(), []
            app: Any = client.app
            task = app.state.catalog.models["tiny"].serving.task
            decode = task.decode

            def slow(raw: bytes, *arguments: Any) -> Any:
                decoded.append(len(raw))
                assert gate.wait(20)
                return decode(raw, *arguments)

            task.decode = slow
            big = picture(1, size=200)
            with ThreadPoolExecutor(3) as clients:
                headers = {"x-timeout-ms": "300"}
                responses = list(
                    clients.map(lambda _: client.post(ROUTE, content=big, headers=headers), range(3))
                )
            gate.set()
            for response in responses:
                assert_error(response, 504, "deadline_exceeded")
            task.decode = decode
            assert client.post(ROUTE, content=big).status_code == 200
            assert len(decoded) == 1, "only the one that a thread had begun with"

    def test_a_deadline_that_cannot_be_kept(self, client: TestClient) -> None:
        response = client.post(ROUTE, content=picture(1), headers={"x-timeout-ms": "0.001"})
        assert_error(response, 429, "overloaded")
        assert int(response.headers["retry-after"]) >= 1

    def test_a_wrong_method_and_an_unknown_route(self, client: TestClient) -> None:
        response = client.get(ROUTE)
        assert_error(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"
        assert_error(client.get("/v1/nothing"), 404, "not_found")

    def test_a_stated_length_that_is_no_number(self, client: TestClient) -> None:
        response = client.post(ROUTE, content=b"x", headers={"content-length": "1e3"})
        assert_error(response, 400, "invalid_input")


class TestOverload:
    def test_a_full_queue_answers_429_with_a_time_to_come_back(self, tmp_path: Path, start: Start) -> None:
        make_model(tmp_path, batching=Batching(max_items=2, max_queue_items=3))
        with start(tmp_path) as client:
            requests = [[("file", ("x.png", picture(seed))) for seed in seeds] for seeds in ((1, 2), (3, 4))]
            gate = threading.Event()
            app: Any = client.app
            app.state.lanes.on("cpu").call(gate.wait)
            with ThreadPoolExecutor(2) as clients:
                responses = [clients.submit(client.post, ROUTE, files=files) for files in requests]
                refused, waiting = (next(as_completed(responses)).result(), responses)
                gate.set()
                statuses = sorted(response.result().status_code for response in waiting)
            assert statuses == [200, 429]
            assert_error(refused, 429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            assert int(refused.headers["retry-after-ms"]) >= 0
            metrics = client.get("/metrics").text
            assert 'kotae_rejected_total{model="tiny",reason="queue_full"} 1.0' in metrics
            assert client.post(ROUTE, content=picture(1)).status_code == 200

    def test_what_the_queue_would_refuse_is_refused_before_it_is_decoded(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(batcher: Batcher, priority: int, deadline: float, coming: int) -> None:
            raise Overloaded("full", reason="deadline", retry_after_seconds=19.5)

        with start() as client:
            with monkeypatch.context() as patch:
                patch.setattr(Batcher, "check", refuse)
                for body in (picture(1), b"no picture"):
                    response = client.post(ROUTE, content=body)
                    assert_error(response, 429, "overloaded")
                    assert response.headers["retry-after"] == "20"
                    assert response.headers["retry-after-ms"] == "19500"
            assert client.post(ROUTE, content=picture(1)).status_code == 200
            metrics = client.get("/metrics").text
            assert 'kotae_rejected_total{model="tiny",reason="deadline"} 2.0' in metrics

    def test_more_items_than_the_queue_ever_holds_answer_413(self, tmp_path: Path, start: Start) -> None:
        make_model(tmp_path, batching=Batching(max_items=2, max_queue_items=3))
        with start(tmp_path) as client:
            files = [("file", ("x.png", picture(1))) for _ in range(4)]
            assert "3" in assert_error(client.post(ROUTE, files=files), 413, "too_large")

    def test_bodies_beyond_what_may_be_held_answer_429(self, start: Start) -> None:
        with start(max_inflight_bytes=1024) as client:
            response = client.post(ROUTE, content=bytes(1500))
            assert_error(response, 429, "overloaded")
            assert "retry-after" in response.headers
            assert client.post(ROUTE, content=picture(1)).status_code == 200


class TestModelChoice:
    def test_several_models_without_a_default_are_listed(self, tmp_path: Path, start: Start) -> None:
        make_model(tmp_path, "one")
        make_model(tmp_path, "two", seed=1)
        with start(tmp_path) as client:
            message = assert_error(client.post(ROUTE, content=picture(1)), 400, "invalid_input", "model")
            assert "one" in message and "two" in message
            assert client.post(f"{ROUTE}?model=two", content=picture(1)).json()["model"] == "two"

    def test_a_broken_model_answers_503_with_its_reason_while_its_sibling_serves(
        self, tmp_path: Path, start: Start
    ) -> None:
        make_model(tmp_path, "sound", default=True)
        broken = make_model(tmp_path, "broken")
        (broken / "labels.txt").write_text("tampered")
        with start(tmp_path) as client:
            response = client.post(f"{ROUTE}?model=broken", content=picture(1))
            assert "labels.txt" in assert_error(response, 503, "not_ready", "model")
            assert "retry-after" in response.headers
            assert client.post(ROUTE, content=picture(1)).json()["model"] == "sound"
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert "labels.txt" in ready.text
            listed = {m["id"]: m for m in client.get("/v1/models").json()["data"]}
            assert listed["sound"]["ready"] and not listed["broken"]["ready"]
            assert "labels.txt" in listed["broken"]["versions"][0]["reason"]
            metrics = client.get("/metrics").text
            assert 'kotae_model_ready{model="broken",version="1"} 0.0' in metrics
            assert 'kotae_model_check_failed{model="broken",reason="files",version="1"} 1.0' in metrics


def test_an_unforeseen_failure_is_a_fixed_text_for_the_client_and_a_traceback_in_the_log(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from service.tasks.image.classification import ImageClassification

    def explode(*arguments: object) -> None:
        raise ZeroDivisionError("secret detail")

    with start() as client:
        monkeypatch.setattr(ImageClassification, "answer", explode)
        response = client.post(ROUTE, content=picture(1), headers={"x-request-id": "find-me"})
        assert "secret" not in assert_error(response, 500, "inference_failed")
    assert "secret detail" in caplog.text


class TestPriority:
    @pytest.mark.parametrize("priority", ["0", "1", "9", "1000"])
    def test_any_whole_number_is_a_priority(self, client: TestClient, priority: str) -> None:
        response = client.post(ROUTE, content=picture(1), headers={"X-Priority": priority})
        assert response.status_code == 200

    @pytest.mark.parametrize("priority", ["-1", "high", "1.5", "", "99999999999"])
    def test_anything_else_is_422(self, client: TestClient, priority: str) -> None:
        response = client.post(ROUTE, content=picture(1), headers={"X-Priority": priority})
        assert_error(response, 422, "validation_error", "X-Priority")

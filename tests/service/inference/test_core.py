"""The core without any transport: raw items and tensors in, answers or typed errors out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import (
    ClientGone,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
)
from tests.service.inference.conftest import Service, request
from tests.tiny_models import LABELS, SIZE, picture, probabilities
from tests.tiny_speech_models import RATE, tone
from tests.tiny_text_models import embedding


def pixels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 1), dtype=np.uint8)


def best_label(result: Mapping[str, Any]) -> str:
    label: str = result["predictions"][0]["label"]
    return label


class TestRawItems:
    async def test_every_item_gets_its_result_in_the_order_they_came(self, service: Service) -> None:
        answer = await service.core.infer(request(*(picture(seed) for seed in range(20))))
        assert (answer.version.model, answer.version.number) == ("tiny", 1)
        assert answer.costs == [1] * 20
        for seed, result in enumerate(answer.results):
            drawn = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            assert best_label(result) == LABELS[int(probabilities(drawn[None, :, :, None]).argmax())]

    async def test_the_request_knows_who_answered_and_how_long_it_took(self, service: Service) -> None:
        asked = request(picture(1))
        await service.core.infer(asked)
        assert asked.target is not None and asked.target.model == "tiny"
        assert asked.pending is not None and asked.pending.infer_seconds > 0
        assert asked.item_count == 1 and asked.decode_seconds > 0

    async def test_the_first_bad_item_is_named_and_nothing_runs(self, service: Service) -> None:
        asked = request(picture(1), b"no picture", picture(2), b"nor this")
        with pytest.raises(InvalidInput, match=r"^inputs\[1\]: ") as refused:
            await service.core.infer(asked)
        assert refused.value.param == "inputs[1]"
        assert asked.item_count == 0

    async def test_an_unknown_model_task_or_version_is_not_found(self, service: Service) -> None:
        for asked in (
            request(picture(1), model="none"),
            request(picture(1), task="no-task"),
            request(picture(1), model="tiny", version="7"),
        ):
            with pytest.raises(NotFound):
                await service.core.infer(asked)

    async def test_nothing_is_answered_once_the_service_is_closed(self, service: Service) -> None:
        service.is_open = False
        with pytest.raises(NotReady):
            await service.core.ready()


class TestTensors:
    async def test_an_image_gives_what_the_graph_gives(self, service: Service) -> None:
        given = [pixels(seed) for seed in range(5)]
        answer = await service.core.infer(request(*({"image": array} for array in given)))
        assert not answer.results and answer.version.model == "tiny"
        for array, outputs in zip(given, answer.outputs, strict=True):
            np.testing.assert_allclose(
                outputs["probabilities"], probabilities(array[None])[0], rtol=1e-5, atol=1e-6
            )

    async def test_a_text_costs_its_tokens(self, service: Service) -> None:
        ids = np.frombuffer(b"hello", np.uint8).astype(np.int64)
        tensors = {"input_ids": ids, "attention_mask": np.ones(5, np.int64)}
        answer = await service.core.infer(request(tensors, task="text-embedding"))
        raw = await service.core.infer(request("hello", task="text-embedding"))
        assert answer.costs == [5]
        assert answer.outputs[0]["embedding"].shape == embedding("hello").shape
        assert raw.results[0]["embedding"] is not None

    async def test_a_recording_costs_its_samples(self, service: Service) -> None:
        samples = tone("a", 0.5)
        tensors = {"audio": samples, "lengths": np.array(len(samples), np.int64)}
        answer = await service.core.infer(request(tensors, task="audio-classification"))
        assert answer.costs == [len(samples)] == [int(0.5 * RATE)]
        assert answer.outputs[0]["probabilities"].sum() == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ({}, "the inputs are image"),
            ({"picture": pixels(1)}, "the inputs are image, not picture"),
            ({"image": pixels(1).astype(np.float32)}, "dtype float32; it must be uint8"),
            ({"image": pixels(1)[0]}, r"shape \[8, 1\]; it must be \[8, 8, 1\]"),
            ({"image": pixels(1)[None]}, r"shape \[1, 8, 8, 1\]"),
        ],
    )
    async def test_an_image_that_does_not_fit_is_refused(
        self, service: Service, tensors: Any, words: str
    ) -> None:
        with pytest.raises(InvalidInput, match=words):
            await service.core.infer(request(tensors))

    @pytest.mark.parametrize(
        ("ids", "mask", "error"),
        [
            (np.ones(3, np.int64), np.ones(2, np.int64), InvalidInput),
            (np.ones((1, 3), np.int64), np.ones((1, 3), np.int64), InvalidInput),
            (np.ones(0, np.int64), np.ones(0, np.int64), InvalidInput),
            (np.ones(3, np.int32), np.ones(3, np.int64), InvalidInput),
            (np.ones(70_000, np.int64), np.ones(70_000, np.int64), TooLarge),
        ],
    )
    async def test_a_text_that_does_not_fit_is_refused(
        self, service: Service, ids: Any, mask: Any, error: type[Exception]
    ) -> None:
        tensors = {"input_ids": ids, "attention_mask": mask}
        with pytest.raises(error):
            await service.core.infer(request(tensors, task="text-embedding"))

    @pytest.mark.parametrize("length", [1, np.array([3])])
    async def test_a_recording_of_another_length_than_it_says_is_refused(
        self, service: Service, length: Any
    ) -> None:
        tensors = {"audio": np.zeros(3, np.float32), "lengths": np.asarray(length, np.int64)}
        with pytest.raises(InvalidInput, match="lengths"):
            await service.core.infer(request(tensors, task="audio-classification"))


class TestTime:
    async def test_a_deadline_that_has_passed_is_refused_before_any_work(self, service: Service) -> None:
        asked = request(b"not even looked at")
        asked.received = time.monotonic() - 3600
        with pytest.raises(Overloaded) as refused:
            await service.core.infer(asked)
        assert refused.value.reason == "deadline"

    async def test_a_deadline_that_passes_while_the_lane_is_busy(self, service: Service) -> None:
        gate = threading.Event()
        lanes: Any = service.backend.lanes
        lanes.on("cpu").call(gate.wait)
        try:
            with pytest.raises(DeadlineExceeded):
                await service.core.infer(request(picture(1), timeout_seconds=0.05))
        finally:
            gate.set()

    async def test_who_watches_may_abandon_the_request(self, service: Service) -> None:
        class GoneAtOnce:
            def __init__(self, pending: Any) -> None:
                self._pending = pending

            def __enter__(self) -> None:
                self._pending.abandon(ClientGone("the client hung up"), "gone")

            def __exit__(self, *_: object) -> None:
                pass

        with pytest.raises((ClientGone, DeadlineExceeded)):
            await service.core.infer(request(picture(1)), watch=GoneAtOnce)

    async def test_items_that_threads_still_read_are_known(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, gate = threading.Event(), threading.Event()

        def slow(*_: object) -> None:
            began.set()
            gate.wait(30)
            raise InvalidInput("bad")

        asked = request(picture(1), picture(2), timeout_seconds=0.2)
        version = service.core.prepare(asked)
        monkeypatch.setattr(version.task, "decode", slow)
        with pytest.raises(DeadlineExceeded):
            await service.core.infer(asked)
        unfinished = asked.unfinished
        assert began.is_set() and unfinished is not None
        gate.set()
        await asyncio.wait([unfinished])
        await asyncio.sleep(0)
        assert asked.unfinished is None

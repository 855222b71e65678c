"""What the core passes on, by known values: deadlines, parts of work, and what is learnt from a request."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import nullcontext
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.engine.queue.pending_request import PendingRequest
from service.errors import ClientGone, DeadlineExceeded, InvalidInput, NotReady, TooLarge
from service.inference.core import InferenceCore
from service.inference.request import InferenceRequest
from service.tasks import Limits
from tests.service.inference.conftest import Service, request
from tests.tiny_models import picture
from tests.tiny_speech_models import RATE, speak, wav

SPEECH = "speech-recognition"
WORDS = speak(("bad", "dad"))[0]
RECORDING = wav(WORDS)
SECONDS = len(WORDS) / RATE


def blank(width: int) -> bytes:
    """A picture of few bytes and many pixels."""
    file = BytesIO()
    Image.new("L", (width, 256)).save(file, "PNG")
    return file.getvalue()


class Calls:
    """Records the calls of a method, which still does its work where it is given."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: object, name: str, *, works: bool = True) -> None:
        self.arguments: list[tuple[Any, ...]] = []
        self.options: list[dict[str, Any]] = []
        original = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.arguments.append(arguments)
            self.options.append(options)
            return original(*arguments, **options) if works else None

        patch.setattr(owner, name, call)


class TestDeadlines:
    @pytest.mark.parametrize(
        ("fields", "seconds"),
        [
            ({}, 20.0),
            ({"timeout_seconds": 0.25}, 0.25),
            ({"task": SPEECH}, None),
            ({"task": SPEECH, "timeout_seconds": 0.25}, 0.25),
        ],
    )
    def test_a_request_is_checked_early_against_a_deadline_that_is_known(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, fields: Any, seconds: float | None
    ) -> None:
        checked = Calls(monkeypatch, service.core.shedding, "check", works=False)
        asked = request(**fields)
        assert service.core.prepare(asked) is asked.target
        known = [] if seconds is None else [(asked, asked.received + seconds)]
        assert checked.arguments == known

    @pytest.mark.parametrize(
        ("timeout", "seconds"), [(None, 20 + 0.5 * 2 * SECONDS), (15.0, 15.0)], ids=["grows", "header"]
    )
    async def test_a_recordings_deadline_grows_with_its_length_unless_the_caller_sets_it(
        self, service: Service, timeout: float | None, seconds: float
    ) -> None:
        asked = request(RECORDING, RECORDING, task=SPEECH, timeout_seconds=timeout)
        answer = await service.core.infer(asked)
        assert answer.costs == [len(WORDS), len(WORDS)]
        assert asked.pending is not None
        assert asked.pending.deadline - asked.received == pytest.approx(seconds)
        assert asked.audio_seconds == pytest.approx([SECONDS, SECONDS])

    async def test_it_grows_no_more_than_the_longest_recording_allows(self, service: Service) -> None:
        service.core.limits = Limits(max_audio_seconds=0.1)
        asked = request(RECORDING, task=SPEECH)
        with pytest.raises(TooLarge):
            await service.core.infer(asked)
        assert asked.pending is not None
        assert asked.pending.deadline - asked.received == pytest.approx(20.05)


class TestLimits:
    async def test_a_request_without_items_is_refused_and_nothing_is_in_progress(
        self, service: Service
    ) -> None:
        with pytest.raises(InvalidInput, match="no item"):
            await service.core.infer(request())
        assert service.core.shedding.loop_load.in_progress == 0

    async def test_recordings_may_be_as_long_in_all_as_the_limit(self, service: Service) -> None:
        service.core.limits = Limits(max_audio_seconds=2 * SECONDS)
        await service.core.infer(request(RECORDING, RECORDING, task=SPEECH))
        with pytest.raises(TooLarge, match="in all") as refused:
            await service.core.infer(request(RECORDING, RECORDING, RECORDING, task=SPEECH))
        assert refused.value.param == "inputs"

    async def test_a_closed_core_refuses_and_an_open_one_waits_for_the_engine(self, service: Service) -> None:
        waited = []

        async def engine_ready() -> None:
            waited.append(True)

        core = InferenceCore(
            service.backend.catalog, service.pool, Limits(), lambda: service.is_open, engine_ready
        )
        await core.ready()
        assert waited == [True]
        service.is_open = False
        with pytest.raises(NotReady) as refused:
            await core.ready()
        assert refused.value.retry_after_seconds == 1
        assert waited == [True]


class TestDecoding:
    async def test_a_request_of_many_items_is_cut_into_parts_for_all_threads(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Calls(monkeypatch, service.pool, "run")
        check = Calls(monkeypatch, service.pool, "check")
        asked = request(*map(picture, range(20)), priority=3, request_id="mine", timeout_seconds=30.0)
        await service.core.infer(asked)
        *parts, submission = run.options
        assert [part["items"] for part in parts] == [3, 3, 3, 3, 3, 3, 2]  # of 4 for each of 2 threads
        assert all((part["kind"], part["priority"]) == ("tiny", 3) for part in parts)
        assert submission == {}
        ((model, priority, items, left),) = check.arguments
        assert (model, priority, items) == ("tiny", 3, 20)
        assert 25 < left <= 30
        assert asked.pending is not None
        assert (asked.pending.label, asked.pending.priority) == ("mine", 3)

    @pytest.mark.parametrize(("width", "is_inline"), [(256, True), (257, False)])
    async def test_the_event_loop_decodes_one_picture_of_few_pixels(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, width: int, is_inline: bool
    ) -> None:
        run = Calls(monkeypatch, service.pool, "run")
        answer = await service.core.infer(request(blank(width)))
        assert len(answer.results) == 1
        assert (run.options == []) is is_inline

    async def test_the_declared_type_of_each_item_reaches_the_task(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = request(picture(1), picture(2), media_types=("image/png", ""))
        decode = Calls(monkeypatch, service.core.prepare(asked).task, "decode")
        await service.core.infer(asked)
        assert {arguments[0]: arguments[3] for arguments in decode.arguments} == {
            picture(1): "image/png",
            picture(2): "",
        }
        assert all(arguments[1] is service.core.limits for arguments in decode.arguments)

    async def test_a_recording_of_silence_is_answered_without_a_run(self, service: Service) -> None:
        asked = request(wav(np.zeros(RATE, np.float32)), task=SPEECH)
        answer = await service.core.infer(asked)
        assert answer.results == [{"text": "", "words": [], "duration": 1.0}]
        assert (asked.item_count, answer.costs) == (0, [0])

    async def test_of_several_bad_items_the_first_is_named_and_not_the_fastest(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failed = threading.Event()

        def decode(item: bytes, *_: object) -> None:
            if item == b"slow":
                failed.wait(30)
            failed.set()
            raise InvalidInput("bad")

        asked = request(b"slow", b"fast")
        monkeypatch.setattr(service.core.prepare(asked).task, "decode", decode)
        with pytest.raises(InvalidInput) as refused:
            await service.core.infer(asked)
        assert refused.value.param == "inputs[0]"

    async def test_nothing_is_decoded_for_a_request_that_was_abandoned(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = request(picture(1))
        decode = Calls(monkeypatch, service.core.prepare(asked).task, "decode")

        def abandon(pending: PendingRequest) -> Any:
            pending.abandon(ClientGone("the client hung up"), "gone")
            return nullcontext()

        with pytest.raises(DeadlineExceeded):
            await service.core.infer(asked, watch=abandon)
        assert decode.arguments == []

    async def test_the_queue_learns_who_calls_it(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = request(picture(1))
        submit = Calls(monkeypatch, service.core.prepare(asked).batcher, "submit")
        answer = await service.core.infer(asked)
        await service.core.infer(request(picture(1), picture(2)))
        assert submit.options == [{"on_loop": True}, {"on_loop": False}]
        assert answer.version is asked.target


class TestLearning:
    async def test_answers_from_the_cache_say_nothing_of_a_models_time(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        noted = Calls(monkeypatch, service.pool, "note_run")
        first = request(picture(1))
        await service.core.infer(first)
        again = await service.core.infer(request(picture(1)))
        assert len(again.results) == 1
        assert first.pending is not None
        assert noted.arguments == [("tiny", first.pending.infer_seconds)]

    async def test_the_event_loops_wait_is_learnt_from_what_it_decodes_itself(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        end = Calls(monkeypatch, service.core.shedding.loop_load, "end")
        asked = request(picture(1))
        await service.core.infer(asked)
        await service.core.infer(request(picture(2), picture(3)))
        (visit, waited), (other, unknown) = end.arguments
        assert visit.requests_ahead == other.requests_ahead == 0
        assert unknown is None
        assert asked.pending is not None and -1 < waited < 5
        assert service.core.shedding.loop_load.in_progress == 0

    async def test_a_late_search_for_words_does_not_keep_the_request(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, gate = threading.Event(), threading.Event()

        def slow(*_: object) -> None:
            began.set()
            gate.wait(30)

        async def ask() -> weakref.ref[Any]:
            asked: InferenceRequest = request(RECORDING, task=SPEECH, timeout_seconds=1.0)
            monkeypatch.setattr(service.core.prepare(asked).task, "answer", slow)
            try:
                await service.core.infer(asked)
            except DeadlineExceeded:
                return weakref.ref(asked.pending)
            raise AssertionError("it was answered")

        try:
            kept = await ask()
            gc.collect()
            assert began.is_set() and kept() is None
        finally:
            gate.set()

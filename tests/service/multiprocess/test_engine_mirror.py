"""A worker's copies of the engine's state; nothing is ready while the engine is gone."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from service.engine.lane.lanes import LaneState
from service.errors import NotReady, Overloaded
from service.multiprocess.engine_connection import RemoteEngine
from service.multiprocess.engine_mirror import EngineMirror, RemoteCatalog, RemoteLanes
from service.multiprocess.engine_state import describe
from service.repository.catalog import Catalog
from service.repository.overrides import Overrides
from tests.service.multiprocess.connection_pair import pending_of, until
from tests.tiny_models import make_model

TASK = "image-classification"
LANE = LaneState("cpu", silent_seconds=0.5, busy_seconds=0.0, restarts=1, gave_up=False)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A sound model with two versions, the newer one damaged, and one without a manifest."""
    make_model(tmp_path, "tiny", default=True)
    (make_model(tmp_path / "later", "tiny", version=2) / "labels.txt").unlink()
    (tmp_path / "later" / "tiny" / "2").rename(tmp_path / "tiny" / "2")
    (tmp_path / "later" / "tiny" / "model.yaml").unlink()
    (tmp_path / "later" / "tiny").rename(tmp_path / "wrong")
    (tmp_path / "later").rmdir()
    return tmp_path


@pytest.fixture
def catalog(models: Path) -> Iterator[Catalog]:
    """The engine's."""
    catalog = Catalog.of_folder(models, "cpu")
    catalog.load()
    yield catalog
    catalog._lanes.stop()


def state_of(catalog: Catalog, *lanes: LaneState) -> dict[str, object]:
    """The state after JSON."""
    state: dict[str, object] = orjson.loads(orjson.dumps(describe(catalog, lanes)))
    return state


def copy_of(models: Path) -> RemoteCatalog:
    return RemoteCatalog(models, Overrides(), RemoteEngine(1.0))


async def test_the_catalog_equals_the_engines(models: Path, catalog: Catalog) -> None:
    copy = copy_of(models)
    with pytest.raises(NotReady, match="loading"):
        copy.find(TASK, "tiny")
    copy.apply(state_of(catalog))
    assert copy.loaded
    assert copy.missing() == catalog.missing() != {}
    ours, theirs = copy.models["tiny"].versions, catalog.models["tiny"].versions
    assert ours.keys() == theirs.keys() == {1, 2}
    for number, version in theirs.items():
        for field in ("state", "reason", "failed_check", "devices", "provider", "variant", "load_seconds"):
            assert getattr(ours[number], field) == getattr(version, field), field
        assert ours[number].golden_check_error == version.golden_check_error
    found = copy.find(TASK)
    assert (found.number, found.task.labels) == (1, theirs[1].task.labels)


async def test_a_task_is_loaded_once(models: Path, catalog: Catalog) -> None:
    copy = copy_of(models)
    copy.apply(state_of(catalog))
    task, queue = copy.find(TASK).task, copy.find(TASK).batcher
    copy.mark_unavailable()
    copy.apply(state_of(catalog))
    assert copy.find(TASK).task is task and copy.find(TASK).batcher is queue


async def test_the_task_of_a_removed_version_is_freed(models: Path, catalog: Catalog) -> None:
    copy = copy_of(models)
    copy.apply(state_of(catalog))
    task = weakref.ref(copy.find(TASK).task)
    state = state_of(catalog)
    state["models"]["tiny"]["versions"] = []  # type: ignore[index]
    copy.apply({**state, "loaded": False})  # a new engine, which has not come to it yet
    assert task() is not None
    copy.apply(state)
    gc.collect()
    assert task() is None


async def test_without_an_engine_nothing_is_ready(models: Path, catalog: Catalog) -> None:
    copy = copy_of(models)
    copy.apply(state_of(catalog))
    queue = copy.find(TASK).batcher
    copy.mark_unavailable()
    assert not copy.loaded
    assert "restarted" in copy.missing()["tiny"]
    with pytest.raises(NotReady):
        copy.find(TASK)
    pending = pending_of(3)
    with pytest.raises(NotReady) as raised:
        queue.submit(pending)
    assert raised.value.retry_after_seconds
    pending.close()


async def test_a_version_whose_task_fails_to_load_is_not_ready(models: Path, catalog: Catalog) -> None:
    state = state_of(catalog)
    (models / "tiny" / "1" / "labels.txt").unlink()
    copy = copy_of(models)
    copy.apply(state)
    version = copy.models["tiny"].versions[1]
    assert (version.state, version.failed_check) == ("failed", "load")
    assert "labels.txt" in version.reason


async def test_queues_have_the_engines_values(models: Path, catalog: Catalog) -> None:
    copy = copy_of(models)
    state = state_of(catalog)
    (version,) = [v for v in state["models"]["tiny"]["versions"] if v["number"] == 1]  # type: ignore[index]
    version |= {"queue_items": 7, "predicted_wait_seconds": 0.25, "predicted_answer_seconds": 0.5}
    version["closed"] = False
    copy.apply(state)
    queue = copy.find(TASK).batcher
    assert (queue.queue_items, queue.predicted_wait_seconds) == (7, 0.25)
    assert (queue.predicted_answer_seconds, queue.closed) == (0.5, False)
    version["closed"] = True
    copy.apply(state)
    assert queue.closed
    version["closed"] = False
    queue.close("the server is shutting down")
    copy.apply(state)
    assert queue.closed
    pending = pending_of(3)
    with pytest.raises(NotReady, match="shutting down"):
        queue.submit(pending)
    pending.close()


async def test_a_request_that_the_engine_would_reject_is_rejected_here(
    models: Path, catalog: Catalog
) -> None:
    copy, state = copy_of(models), state_of(catalog)
    (version,) = [v for v in state["models"]["tiny"]["versions"] if v["number"] == 1]  # type: ignore[index]
    version |= {"predicted_answer_seconds": 5.0, "is_refusing": False}
    copy.apply(state)
    queue, now = copy.find(TASK).batcher, time.monotonic()
    queue.check(2, now + 3.0, coming=0)  # the prediction may be wrong: the engine has refused nobody
    version |= {"is_refusing": True}
    copy.apply(state)
    queue.check(2, now + 6.0, coming=0)
    queue.check(1, now + 1.0, coming=0)  # more urgent than the prediction
    with pytest.raises(Overloaded) as rejected:
        queue.check(2, now + 3.0, coming=0)
    assert rejected.value.reason == "deadline"
    assert rejected.value.retry_after_seconds == pytest.approx(2.0, abs=1.0)
    version |= {"predicted_answer_seconds": 0.0}
    copy.apply(state)
    queue.check(2, time.monotonic() + 0.001, coming=0)


async def test_a_model_added_after_the_start_is_ignored(models: Path, catalog: Catalog) -> None:
    copy = copy_of(models)
    state = state_of(catalog)
    state["models"]["new"] = state["models"]["tiny"]  # type: ignore[index]
    copy.apply(state)
    assert copy.find(TASK).model == "tiny"


def test_lanes_become_silent_with_their_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lanes = RemoteLanes()
    assert lanes.states() == []
    dead = replace(LANE, device="cuda:0", silent_seconds=float("inf"))
    lanes.apply(
        orjson.loads(orjson.dumps({"lanes": describe(Catalog.of_folder(Path("/")), [LANE, dead])["lanes"]}))
    )
    now[0] += 20
    alive, gone = lanes.states()
    assert alive == replace(LANE, silent_seconds=20.5)
    assert gone.silent_seconds > 1e8


async def test_requests_wait_until_models_are_loaded(models: Path, catalog: Catalog) -> None:
    engine = RemoteEngine(60.0)
    copy = RemoteCatalog(models, Overrides(), engine)
    EngineMirror(engine, copy, RemoteLanes()).start()
    waiting = asyncio.create_task(engine.wait_until_ready())
    engine.on_state({**state_of(catalog), "loaded": False})
    await asyncio.sleep(0.05)
    assert not waiting.done()
    engine.on_state(state_of(catalog))
    await asyncio.wait_for(waiting, 20)
    assert copy.find(TASK)
    await asyncio.wait_for(engine.wait_until_ready(), 1)  # at once


async def test_requests_wait_only_for_the_time_limit() -> None:
    engine = RemoteEngine(0.05)
    await asyncio.wait_for(engine.wait_until_ready(), 20)


async def test_the_last_state_of_a_dead_engine_lets_no_request_through(
    models: Path, catalog: Catalog
) -> None:
    engine = RemoteEngine(0.3)
    copy = RemoteCatalog(models, Overrides(), engine)
    EngineMirror(engine, copy, RemoteLanes()).start()
    engine.on_state(state_of(catalog))
    engine._disconnected()  # before the worker's thread has taken the state over
    await until(lambda: copy.models["tiny"].versions != {} and not copy.loaded)
    assert not engine._ready.is_set()

"""First runs: every shape that a GPU will see, on every thread that will ask for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.cuda.gpu_session import GpuSession
from service.engine.cuda.providers import GpuOptions
from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits
from service.engine.queue.pending_request import PendingRequest
from service.engine.runtime.device import Device
from service.engine.runtime.session import Session, TensorSpec
from service.engine.runtime.shape_buckets import Buckets
from service.repository.catalog import Catalog
from service.repository.golden import read_golden_arrays
from service.repository.loader import LoadOptions, Version
from service.repository.overrides import ModelOverrides, Overrides
from service.repository.warm_up import batches_of_all_shapes
from tests.service.engine.host_memory import HostGpuSession
from tests.tiny_models import make_model
from tests.tiny_speech_models import make_keyword_model
from tests.tiny_text_models import make_text_model


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes(Observer())
    yield lanes
    lanes.stop()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[GpuOptions]:
    """A GPU whose sessions run on the CPU, bound to the CPU's memory; gives what each was made with."""
    asked: list[GpuOptions] = []

    def stand_in(path: Path, device: Device, *, gpu: GpuOptions) -> GpuSession:
        asked.append(gpu)
        return HostGpuSession(path, device)

    monkeypatch.setattr("service.repository.sessions.GpuSession", stand_in)
    monkeypatch.setattr("service.repository.loader.pinned", np.zeros)
    monkeypatch.setattr("service.engine.devices.cuda_problem", lambda provider: None)
    monkeypatch.setattr("service.engine.devices.gpu_names", lambda: ("NVIDIA H200",))
    return asked


def load(folder: Path, lanes: Lanes, **options: Any) -> Version:
    catalog = Catalog(folder, lanes, Observer(), LoadOptions(device="cuda", **options))
    catalog.discover()
    catalog.load()
    (model,) = catalog.models.values()
    (version,) = model.versions.values()
    assert version.state == "ready", version.reason
    return version


def test_a_batch_of_every_bucket_is_made_of_the_first_row() -> None:
    image = TensorSpec("image", "uint8", (None, 2))
    made = list(
        batches_of_all_shapes((image,), {"image": np.array([[1, 2], [3, 4]])}, Buckets(4), BatchLimits(4))
    )
    assert [batch["image"].tolist() for batch in made] == [[[1, 2]] * count for count in (1, 2, 3, 4)]


def test_lengths_go_from_the_golden_row_s_to_what_the_graph_takes_within_the_cost() -> None:
    specs = (TensorSpec("audio", "float32", (None, None)), TensorSpec("lengths", "int64", (None,)))
    row = {"audio": np.ones((1, 17), dtype=np.float32), "lengths": np.array([17])}
    made = list(batches_of_all_shapes(specs, row, Buckets(2, 40), BatchLimits(2, max_cost=64)))
    assert [batch["audio"].shape for batch in made] == [(1, 24), (1, 32), (1, 40), (2, 24), (2, 32)]
    assert all(batch["audio"].sum() == 17 * len(batch["audio"]) for batch in made)
    assert all((batch["lengths"] == 17).all() for batch in made)


def test_every_thread_of_a_gpu_s_lane_runs_every_size(
    tmp_path: Path, lanes: Lanes, asked: list[GpuOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: set[tuple[int, int]] = set()
    real = Session.run

    def run(session: Session, inputs: Any) -> Any:
        ran.add((threading.get_ident(), len(inputs["image"])))
        return real(session, inputs)

    monkeypatch.setattr(Session, "run", run)
    version = load(make_model(tmp_path).parent.parent, lanes)
    sizes = set(Buckets(version.manifest.batching.max_items).ladder())
    threads = {thread for thread, _ in ran}
    assert len(threads) == 2
    assert all(sizes <= {size for ident, size in ran if ident == thread} for thread in threads)


def make_text(folder: Path) -> Path:
    return make_text_model(folder, "text", "text-embedding")


@pytest.mark.parametrize(
    ("make", "captured"), [(make_model, True), (make_text, False), (make_keyword_model, False)]
)
def test_only_fixed_shapes_are_captured_and_the_host_may_say_no(
    tmp_path: Path, lanes: Lanes, asked: list[GpuOptions], make: Any, captured: bool
) -> None:
    version = load(make(tmp_path).parent.parent, lanes)
    no = Overrides().with_model(version.model, ModelOverrides(cuda_graphs=False))
    load(tmp_path, lanes, overrides=no)
    assert [options.cuda_graph for options in asked] == [captured, False]


@pytest.mark.parametrize("make", [make_model, make_text, make_keyword_model])
async def test_what_a_lane_with_two_threads_answers_equals_one_run_on_the_cpu(
    tmp_path: Path, lanes: Lanes, asked: list[GpuOptions], make: Any
) -> None:
    version = load(make(tmp_path).parent.parent, lanes)
    rows, _ = read_golden_arrays(version.folder)
    plain = Session(version.folder / "model.onnx", Device("cpu"))
    count = len(next(iter(rows.values())))
    pending_requests = []
    for i in range(40):
        pending = PendingRequest(deadline=1e12)
        pending.fill([{name: array[i % count] for name, array in rows.items()}], [1])
        pending_requests.append(pending)
        version.batcher.submit(pending)
    for i, pending in enumerate(pending_requests):
        (row,) = await asyncio.wait_for(pending.outputs(), 20)
        wanted = plain.run({name: array[i % count : i % count + 1] for name, array in rows.items()})
        for name, array in wanted.items():
            np.testing.assert_allclose(row[name], array[0], atol=1e-4)

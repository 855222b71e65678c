"""Models on GPUs: what the loader asks of them, with stand-ins; and, marked `gpu`, what they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from service.backend import open_backend
from service.engine.cuda.gpu_session import GpuSession
from service.engine.cuda.providers import (
    CUDA,
    TENSORRT,
    GpuOptions,
    ShapeRange,
    TensorRT,
    has_heavy,
    heavy_elsewhere,
)
from service.engine.devices import choose_devices, cuda_problem
from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.engine.runtime.device import Device
from service.engine.runtime.session import Session, runtime_version
from service.errors import StartFailed
from service.repository import golden
from service.repository.catalog import Catalog
from service.repository.loader import LoadOptions, Version
from service.repository.manifest import VERSION_FILE, Batching, VersionFacts, read
from service.repository.overrides import ModelOverrides, Overrides
from service.repository.sessions import choose_variant
from service.settings import Settings
from service.tasks import TASKS
from tests.service.engine.host_memory import HostGpuSession
from tests.tiny_models import SIZE, make_model
from tests.tiny_speech_models import RATE, make_keyword_model
from tests.tiny_text_models import MAX_TOKENS, make_text_model

SHIPPED = sorted(path.parent for path in Path(__file__).parents[2].glob("models/*/*/version.yaml"))


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes(Observer())
    yield lanes
    lanes.stop()


def _load(folder: Path, lanes: Lanes, **options: Any) -> Version:
    """Load the only version of the only model in a folder."""
    catalog = Catalog(folder, lanes, Observer(), LoadOptions(**options))
    catalog.discover()
    catalog.load()
    (model,) = catalog.models.values()
    (version,) = model.versions.values()
    return version


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[GpuOptions]:
    """Two GPUs whose sessions run on the CPU; gives what each was made with."""
    asked: list[GpuOptions] = []

    def stand_in(path: Path, device: Device, *, gpu: GpuOptions) -> GpuSession:
        asked.append(gpu)
        return HostGpuSession(path, device)

    monkeypatch.setattr("service.repository.sessions.GpuSession", stand_in)
    monkeypatch.setattr("service.repository.loader.pinned", np.zeros)
    monkeypatch.setattr("service.repository.sessions.tensorrt_version", lambda: "10.16.1")
    monkeypatch.setattr("service.engine.devices.cuda_problem", lambda provider: None)
    monkeypatch.setattr("service.engine.devices.gpu_names", lambda: ("NVIDIA H200", "NVIDIA H200"))
    return asked


def test_a_model_has_a_session_and_a_lane_on_every_gpu(
    tmp_path: Path, lanes: Lanes, asked: list[GpuOptions]
) -> None:
    make_model(tmp_path)
    version = _load(tmp_path, lanes, device="cuda")
    assert (version.state, version.provider) == ("ready", "cuda")
    assert [str(device) for device in version.devices] == ["cuda:0", "cuda:1"]
    assert [lane.device for lane in lanes.states()] == ["cuda:0", "cuda:1"]
    assert [options.tensorrt for options in asked] == [None, None]


@pytest.mark.usefixtures("asked")
def test_a_gpu_is_warmed_at_every_size_however_long_that_takes(
    tmp_path: Path, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.repository.warm_up._CPU_SECONDS", 0)
    sizes: list[int] = []
    real = Session.run

    def run(session: Session, inputs: Any, *rest: Any) -> Any:
        sizes.append(len(inputs["image"]))
        return real(session, inputs, *rest)

    monkeypatch.setattr(Session, "run", run)
    make_model(tmp_path)
    assert _load(tmp_path, lanes, device="cuda:1").state == "ready"
    assert {1, 2, 4, 8} <= set(sizes)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_model_s_limit_of_memory_holds_on_every_gpu(
    tmp_path: Path, lanes: Lanes, asked: list[GpuOptions], provider: Literal["cuda", "tensorrt"]
) -> None:
    make_model(tmp_path / "models")
    overrides = Overrides().with_model("tiny", ModelOverrides(provider=provider, memory_limit_bytes=2**30))
    cache = tmp_path / "cache"
    assert _load(tmp_path / "models", lanes, device="cuda", overrides=overrides, tensorrt_cache=cache).state
    assert [options.memory_limit_bytes for options in asked] == [2**30, 2**30]


def test_the_host_may_run_one_model_by_tensorrt(
    tmp_path: Path, lanes: Lanes, asked: list[GpuOptions]
) -> None:
    make_model(tmp_path / "models")
    overrides = Overrides().with_model("tiny", ModelOverrides(provider="tensorrt"))
    cache = tmp_path / "cache"
    version = _load(tmp_path / "models", lanes, device="cuda:0", overrides=overrides, tensorrt_cache=cache)
    assert (version.state, version.provider) == ("ready", "tensorrt")
    (options,) = asked
    assert options.tensorrt is not None
    assert options.tensorrt.timings == cache / f"tensorrt-10.16.1-onnxruntime-{runtime_version()}"


def test_engines_have_a_folder_for_each_content_of_a_graph(
    tmp_path: Path, lanes: Lanes, asked: list[GpuOptions]
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_model(tmp_path / name, seed=seed)
        _load(tmp_path / name, lanes, device="cuda:0", gpu_provider="tensorrt", tensorrt_cache=tmp_path / "e")
    folders = [options.tensorrt.engines for options in asked if options.tensorrt]
    assert all(folder.is_dir() and folder.parents[1] == tmp_path / "e" for folder in folders)
    same, again, other = folders
    assert same == again != other


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, lanes: Lanes, asked: list[GpuOptions]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    make_model(tmp_path / "models")
    options = {"device": "cuda", "gpu_provider": "tensorrt", "tensorrt_cache": tmp_path / "file"}
    version = _load(tmp_path / "models", lanes, **options)
    assert version.reason.startswith("the folder for TensorRT engines cannot be created: ")
    assert not asked


def test_the_start_tells_what_auto_chose_and_why_no_gpu(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.devices.cuda_problem", lambda provider: "there is no driver")
    monkeypatch.setattr("service.backend.cuda_problem", lambda provider: "there is no driver")
    backend = open_backend(Settings(models=repository), Observer())
    assert backend.described["device"] == {"name": "cpu", "no_gpu_because": "there is no driver"}
    backend = open_backend(Settings(models=repository, device="cpu"), Observer())
    assert backend.described["device"] == {"name": "cpu"}
    with pytest.raises(StartFailed, match="there is no driver"):
        open_backend(Settings(models=repository, device="cuda"), Observer())


@pytest.mark.usefixtures("asked")
def test_the_start_names_the_gpus(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.backend.gpu_names", lambda: ("NVIDIA H200", "NVIDIA H200"))
    backend = open_backend(Settings(models=repository, gpu_provider="tensorrt"), Observer())
    assert backend.described["device"] == {
        "name": "cuda",
        "gpu_provider": "tensorrt",
        "gpus": ["NVIDIA H200", "NVIDIA H200"],
    }


def _pictures(folder: Path, batching: Batching) -> None:
    make_model(folder, batching=batching)


def _text(folder: Path, batching: Batching) -> None:
    make_text_model(folder, "tiny", "text-embedding", batching=batching)


def _keywords(folder: Path, batching: Batching) -> None:
    make_keyword_model(folder, "tiny", batching=batching)


@pytest.mark.parametrize(
    ("make", "batching", "expected"),
    [
        (
            _pictures,
            Batching(max_items=6),
            {"image": ((1, SIZE, SIZE, 1), (6, SIZE, SIZE, 1), (6, SIZE, SIZE, 1))},
        ),
        (
            _text,
            Batching(max_items=8, max_cost=3 * MAX_TOKENS + 1),
            {name: ((1, 1), (3, MAX_TOKENS), (8, MAX_TOKENS)) for name in ("input_ids", "attention_mask")},
        ),
        (
            _keywords,
            Batching(max_items=4),
            {"audio": ((1, RATE // 10), (4, RATE), (4, RATE)), "lengths": ((1,), (4,), (4,))},
        ),
    ],
)
def test_engines_are_built_for_all_shapes_that_a_batch_can_have(
    tmp_path: Path,
    lanes: Lanes,
    asked: list[GpuOptions],
    *,
    make: Callable[[Path, Batching], None],
    batching: Batching,
    expected: dict[str, tuple[tuple[int, ...], ...]],
) -> None:
    make(tmp_path / "models", batching)
    options = {"device": "cuda:0", "gpu_provider": "tensorrt", "tensorrt_cache": tmp_path}
    version = _load(tmp_path / "models", lanes, **options)
    assert version.state == "ready", version.reason
    assert asked[0].tensorrt is not None
    assert dict(asked[0].tensorrt.profile) == {name: ShapeRange(*shapes) for name, shapes in expected.items()}


# --- what only a GPU can show ------------------------------------------------------------------


@pytest.fixture(params=["cuda", "tensorrt"])
def gpu(request: pytest.FixtureRequest, tmp_path: Path) -> GpuOptions:
    """Each provider that there is."""
    if problem := cuda_problem(request.param):
        pytest.skip(problem)
    return GpuOptions(tensorrt=TensorRT(tmp_path, tmp_path) if request.param == "tensorrt" else None)


@pytest.mark.gpu
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.parent.name)
def test_every_shipped_model_answers_on_a_gpu_as_on_the_cpu(folder: Path, gpu: GpuOptions) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = TASKS[read_task(folder)](folder, facts)
    variant = choose_variant(facts, Device("cuda"))
    plain = choose_variant(facts, Device("cpu"), "fp32")
    session = GpuSession(folder / variant.file, Device("cuda"), gpu=gpu)
    on_cpu = Session(folder / plain.file, Device("cpu"))
    inputs, _ = golden.read_golden_arrays(folder)
    for items in (1, 3, 8):
        batch = {name: np.resize(array, (items, *array.shape[1:])) for name, array in inputs.items()}
        differences = task.differences(on_cpu.run(batch), session.run(batch))
        assert all(differences[name] <= variant.tolerance[name] for name in differences), (items, differences)


def read_task(folder: Path) -> str:
    catalog = Catalog.of_folder(folder.parents[1], "cpu")
    manifest = catalog.models[folder.parent.name].manifest
    assert manifest is not None
    return manifest.task


@pytest.mark.gpu
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.parent.name)
def test_nothing_heavy_of_a_shipped_model_is_left_to_the_cpu(folder: Path, gpu: GpuOptions) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    path = folder / choose_variant(facts, Device("cuda")).file
    placed = GpuSession(path, Device("cuda"), gpu=gpu).placements
    assert heavy_elsewhere(placed, [CUDA, TENSORRT]) == ""
    assert has_heavy(placed, TENSORRT if gpu.tensorrt else CUDA)


@pytest.mark.gpu
def test_all_gpus_load_and_verify_every_shipped_model(lanes: Lanes, tmp_path: Path) -> None:
    options = LoadOptions(device="cuda", tensorrt_cache=tmp_path)
    catalog = Catalog(SHIPPED[0].parents[1], lanes, Observer(), options)
    catalog.discover()
    catalog.load()
    assert {name: model.problem for name, model in catalog.models.items() if not model.serving} == {}
    gpus = [str(device) for device in choose_devices("cuda")]
    assert sorted(lane.device for lane in lanes.states()) == sorted(gpus)


@pytest.mark.gpu
def test_tensorrt_keeps_its_engine_and_its_timings(tmp_path: Path) -> None:
    if problem := cuda_problem("tensorrt"):
        pytest.skip(problem)
    folder = make_model(tmp_path / "models")
    shape = (SIZE, SIZE, 1)
    profile = {"image": ShapeRange((1, *shape), (8, *shape), (8, *shape))}
    (tmp_path / "engines").mkdir()
    options = GpuOptions(tensorrt=TensorRT(tmp_path / "engines", tmp_path, profile=profile))
    session = GpuSession(folder / "model.onnx", Device("cuda"), gpu=options)
    session.run({"image": np.zeros((2, *shape), dtype=np.uint8)})
    engines = {path: path.stat().st_mtime_ns for path in (tmp_path / "engines").glob("*.engine")}
    assert engines
    assert list(tmp_path.glob("*.timing"))
    GpuSession(folder / "model.onnx", Device("cuda"), gpu=options)
    assert {path: path.stat().st_mtime_ns for path in engines} == engines


@pytest.mark.gpu
def test_a_gpu_that_is_not_there_is_refused_by_onnxruntime_too(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    beyond = len(choose_devices("cuda"))
    with pytest.raises(Exception, match=r"model\.onnx"):
        GpuSession(folder / "model.onnx", Device("cuda", beyond))

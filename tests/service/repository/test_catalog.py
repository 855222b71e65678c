"""The catalog: a valid model answers, what is not says why, and neither hurts the other."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from service.engine.devices import cuda_problem
from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.engine.queue.pending_request import PendingRequest
from service.engine.runtime.cpus import CpuPlan
from service.engine.runtime.session import Device, Session
from service.errors import InvalidInput, NotFound, NotReady, StartFailed
from service.repository.catalog import Catalog, Model
from service.repository.loader import LoadOptions
from service.repository.manifest import Batching, Variant, VersionPolicy
from service.repository.overrides import ModelOverrides, Overrides
from service.repository.sessions import time_golden_row
from tests.tiny_models import LABELS, finish_version, make_model, tiny_graph

TASK = "image-classification"

Load = Callable[..., Catalog]


def two_threads() -> Overrides:
    return Overrides().with_model("tiny", ModelOverrides(threads=2))


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes(Observer())
    yield lanes
    lanes.stop()


@pytest.fixture
def load(tmp_path: Path, lanes: Lanes) -> Load:
    """Load what stands in `tmp_path`."""

    def load_now(**options: Any) -> Catalog:
        every_version = options.pop("every_version", False)
        catalog = Catalog(tmp_path, lanes, Observer(), LoadOptions(**options))
        catalog.discover()
        catalog.load(every_version=every_version)
        return catalog

    return load_now


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a YAML file."""
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def ready(model: Model) -> list[int]:
    return sorted(number for number, version in model.versions.items() if version.state == "ready")


# --- what is wrong with one model ------------------------------------------------------------


def _missing_graph(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def _changed_byte(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)


def _typo_in_the_manifest(folder: Path) -> None:
    edit(folder.parent / "model.yaml", defualt=True)


def _typo_in_the_facts(folder: Path) -> None:
    edit(folder / "version.yaml", metrcis={})


def _no_manifest(folder: Path) -> None:
    (folder.parent / "model.yaml").unlink()


def _no_facts(folder: Path) -> None:
    (folder / "version.yaml").unlink()


def _another_name(folder: Path) -> None:
    edit(folder.parent / "model.yaml", name="other")


def _wrong_output(folder: Path) -> None:
    onnx.save(tiny_graph(output="scores"), folder / "model.onnx")
    finish_version(folder)


def _fixed_batch(folder: Path) -> None:
    graph = tiny_graph()
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    onnx.save(graph, folder / "model.onnx")
    finish_version(folder)


def _fewer_labels(folder: Path) -> None:
    (folder / "labels.txt").write_text("zero\none\n")
    finish_version(folder)


def _not_onnx(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"words")
    finish_version(folder)


def _another_network(folder: Path) -> None:
    onnx.save(tiny_graph(seed=1), folder / "model.onnx")
    finish_version(folder)


def _swapped_labels(folder: Path) -> None:
    (folder / "labels.txt").write_text("\n".join(reversed(LABELS)) + "\n")
    finish_version(folder)


def _damaged_arrays(folder: Path) -> None:
    (folder / "golden.npz").write_bytes(b"words")
    finish_version(folder)


def _asks_for_cuda(folder: Path) -> None:
    edit(folder.parent / "model.yaml", devices=["cuda"])


def _no_variant(folder: Path) -> None:
    facts = yaml.safe_load((folder / "version.yaml").read_text())
    facts["variants"][0]["devices"] = ["cuda"]
    (folder / "version.yaml").write_text(yaml.safe_dump(facts))


def _no_labels(folder: Path) -> None:
    (folder / "labels.txt").write_bytes(b"")
    finish_version(folder)


DAMAGE: dict[Callable[[Path], None], str] = {
    _missing_graph: "model.onnx is missing",
    _changed_byte: "model.onnx is not the file that was exported",
    _typo_in_the_manifest: "model.yaml: defualt",
    _typo_in_the_facts: "version.yaml: metrcis",
    _no_manifest: "model.yaml is missing",
    _no_facts: "version.yaml",
    _another_name: "name: other",
    _wrong_output: "scores",
    _fixed_batch: "image has no dynamic batch axis: [5, 8, 8, 1]",
    _fewer_labels: "for 2 labels",
    _not_onnx: "model.onnx does not load",
    _another_network: "output probabilities differs from PyTorch",
    _swapped_labels: "golden/noise.png: label",
    _damaged_arrays: "golden.npz cannot be read",
    _no_variant: "no variant is for cpu",
    _no_labels: "labels.txt",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__.strip("_"))
def test_a_model_that_fails_says_why_while_its_sibling_answers(
    damage: Callable[[Path], None], tmp_path: Path, load: Load
) -> None:
    damage(make_model(tmp_path, "broken"))
    make_model(tmp_path, "good")
    catalog = load()
    broken = catalog.models["broken"]
    assert broken.serving is None
    assert broken.has_failure
    assert DAMAGE[damage] in broken.problem
    assert "\n" not in broken.problem
    assert catalog.missing() == {"broken": broken.problem}
    assert catalog.find(TASK, "good").state == "ready"
    with pytest.raises(NotReady) as caught:
        catalog.find(TASK, "broken")
    assert DAMAGE[damage] in caught.value.message
    assert caught.value.retry_after_seconds


@pytest.mark.skipif(cuda_problem() is None, reason="this machine has CUDA")
def test_a_model_that_asks_for_cuda_where_there_is_none_says_what_is_missing(
    tmp_path: Path, load: Load
) -> None:
    _asks_for_cuda(make_model(tmp_path, "broken"))
    make_model(tmp_path, "good")
    catalog = load()
    assert f"device cuda was asked for, but {cuda_problem()}" in catalog.models["broken"].problem
    assert ready(catalog.models["good"]) == [1]


def test_an_optional_model_that_fails_does_not_hold_up_readiness(tmp_path: Path, load: Load) -> None:
    _missing_graph(make_model(tmp_path, "broken", required=False))
    catalog = load()
    assert catalog.models["broken"].problem
    assert catalog.missing() == {}


# --- what is right ---------------------------------------------------------------------------


def test_a_valid_model_answers_with_the_numbers_of_its_export(repository: Path, lanes: Lanes) -> None:
    catalog = Catalog(repository, lanes, Observer(), LoadOptions())
    catalog.discover()
    assert not catalog.loaded
    assert catalog.missing() == {"tiny": "loading"}
    catalog.load()
    assert catalog.loaded
    assert catalog.missing() == {}
    version = catalog.find(TASK)
    assert (version.model, version.number, version.state, version.reason) == ("tiny", 1, "ready", "")
    assert version.devices == (Device("cpu"),)
    assert version.golden_check_error is not None
    assert 0 <= version.golden_check_error < 1e-4
    assert version.load_seconds > 0
    assert version.task.labels == LABELS
    assert version.batcher is version.queue


def test_a_graph_of_any_height_and_width_is_loaded_too(tmp_path: Path, load: Load) -> None:
    folder = make_model(tmp_path)
    graph = tiny_graph()
    for axis, name in ((1, "H"), (2, "W")):
        graph.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(graph, folder / "model.onnx")
    finish_version(folder)
    assert load().find(TASK).state == "ready"


def test_a_catalog_can_be_looked_at_without_loading(repository: Path) -> None:
    catalog = Catalog.of_folder(repository)
    model = catalog.models["tiny"]
    assert model.manifest is not None
    assert model.version_numbers() == [1]
    assert (model.serving, model.problem, model.versions) == (None, "loading", {})


def test_devices_of_the_same_name_share_one_instance(tmp_path: Path, load: Load) -> None:
    make_model(tmp_path, devices=("auto", "cpu"))
    assert load(device="cpu").find(TASK).devices == (Device("cpu"),)


def test_a_folder_of_models_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="nowhere"):
        Catalog.of_folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(StartFailed, match="file"):
        Catalog.of_folder(tmp_path / "file")


def test_an_empty_folder_is_a_catalog_without_models(load: Load) -> None:
    catalog = load()
    assert catalog.models == {}
    assert catalog.loaded
    with pytest.raises(NotFound, match=TASK):
        catalog.find(TASK)


@pytest.mark.parametrize("name", [".git", "..data", "_drafts", "lost+found"])
def test_folders_that_are_not_meant_as_models_are_ignored(name: str, tmp_path: Path, load: Load) -> None:
    make_model(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    assert list(load().models) == ["tiny"]


# --- versions --------------------------------------------------------------------------------


def _versions(folder: Path, *numbers: int, **manifest: Any) -> dict[int, Path]:
    """A model with several versions; each answers differently."""
    folders = {}
    for number in numbers:
        if folder.joinpath("tiny").exists():
            other = make_model(folder / ".staging", version=number, seed=number)
            folders[number] = Path(shutil.move(other, folder / "tiny" / str(number)))
            shutil.rmtree(folder / ".staging")
        else:
            folders[number] = make_model(folder, version=number, seed=number, **manifest)
    return folders


def test_by_default_only_the_newest_version_is_loaded(tmp_path: Path, load: Load) -> None:
    _versions(tmp_path, 1, 2, 10)
    catalog = load()
    assert list(catalog.models["tiny"].versions) == [10]
    assert catalog.find(TASK).number == 10


def test_where_the_newest_version_fails_an_older_one_answers(tmp_path: Path, load: Load) -> None:
    folders = _versions(tmp_path, 1, 2, 3)
    _missing_graph(folders[3])
    model = load().models["tiny"]
    assert ready(model) == [2]
    assert model.serving is model.versions[2]
    assert model.problem == ""
    assert model.has_failure
    assert model.versions[3].state == "failed"
    assert model.versions[3].reason == "model.onnx is missing"
    assert 1 not in model.versions


def test_where_every_version_fails_each_reason_is_told(tmp_path: Path, load: Load) -> None:
    folders = _versions(tmp_path, 1, 2)
    _missing_graph(folders[1])
    _not_onnx(folders[2])
    problem = load().models["tiny"].problem
    assert "version 1: model.onnx is missing" in problem
    assert "version 2: model.onnx does not load" in problem


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (VersionPolicy(policy="latest", count=2), [2, 3]),
        (VersionPolicy(policy="latest", count=9), [1, 2, 3]),
        (VersionPolicy(policy="all"), [1, 2, 3]),
        (VersionPolicy(policy="listed", list=(1, 3)), [1, 3]),
    ],
)
def test_the_policy_names_the_versions_that_are_loaded(
    policy: VersionPolicy, expected: list[int], tmp_path: Path, load: Load
) -> None:
    _versions(tmp_path, 1, 2, 3, versions=policy)
    catalog = load()
    assert ready(catalog.models["tiny"]) == expected
    assert catalog.find(TASK).number == expected[-1]
    assert {version.number for version in catalog.versions()} == set(expected)


def test_the_latest_two_are_the_latest_two_that_pass(tmp_path: Path, load: Load) -> None:
    folders = _versions(tmp_path, 1, 2, 3, versions=VersionPolicy(count=2))
    _missing_graph(folders[2])
    model = load().models["tiny"]
    assert ready(model) == [1, 3]
    assert model.versions[2].state == "failed"


def test_a_listed_version_that_is_not_there_is_told(tmp_path: Path, load: Load) -> None:
    make_model(tmp_path, versions=VersionPolicy(policy="listed", list=(1, 9)))
    model = load().models["tiny"]
    assert ready(model) == [1]
    assert model.has_failure
    assert "9" in model.versions[9].reason


def test_a_model_whose_only_listed_version_is_not_there_says_so(tmp_path: Path, load: Load) -> None:
    make_model(tmp_path, versions=VersionPolicy(policy="listed", list=(9,)))
    model = load().models["tiny"]
    assert model.serving is None
    assert "9" in model.problem


def test_verifying_loads_every_version_whatever_the_policy(tmp_path: Path, load: Load) -> None:
    _versions(tmp_path, 1, 2, versions=VersionPolicy(policy="listed", list=(1,)))
    assert ready(load(every_version=True).models["tiny"]) == [1, 2]


# --- finding ---------------------------------------------------------------------------------


def test_the_only_model_of_a_task_needs_no_name(tmp_path: Path, load: Load) -> None:
    make_model(tmp_path, "only")
    assert load().find(TASK).model == "only"


def test_where_a_manifest_cannot_be_read_nobody_takes_the_place_of_the_default(
    tmp_path: Path, load: Load
) -> None:
    _typo_in_the_manifest(make_model(tmp_path, "broken"))
    make_model(tmp_path, "good")
    with pytest.raises(NotReady, match="broken") as caught:
        load().find(TASK)
    assert caught.value.param == "model"
    make_model(tmp_path, "declared", default=True)
    assert load().find(TASK).model == "declared"


def test_the_default_answers_where_no_model_is_named(tmp_path: Path, load: Load) -> None:
    make_model(tmp_path, "a")
    make_model(tmp_path, "b", default=True)
    catalog = load()
    assert catalog.find(TASK).model == "b"
    assert catalog.find(TASK, "a").model == "a"


@pytest.mark.parametrize("default", [False, True])
def test_without_a_single_default_a_name_is_asked_for(default: bool, tmp_path: Path, load: Load) -> None:
    make_model(tmp_path, "a", default=default)
    make_model(tmp_path, "b", default=default)
    with pytest.raises(InvalidInput, match="a, b") as caught:
        load().find(TASK)
    assert caught.value.param == "model"


@pytest.mark.parametrize("name", ["tiy", "../tiny", "TINY", "\ud800"])
def test_an_unknown_model_is_not_found_and_the_known_are_told(name: str, tmp_path: Path, load: Load) -> None:
    make_model(tmp_path)
    make_model(tmp_path, "second")
    catalog = load()
    with pytest.raises(NotFound, match="second, tiny") as caught:
        catalog.find(TASK, name)
    assert caught.value.param == "model"


def test_a_model_of_another_task_is_not_found(tmp_path: Path, load: Load) -> None:
    make_model(tmp_path)
    with pytest.raises(NotFound, match="speech-recognition"):
        load().find("speech-recognition", "tiny")


def test_a_version_can_be_asked_for(tmp_path: Path, load: Load) -> None:
    _versions(tmp_path, 1, 2, versions=VersionPolicy(policy="all"))
    catalog = load()
    assert [catalog.find(TASK, "tiny", number).number for number in ("1", "2")] == [1, 2]
    assert catalog.find(TASK, version="1").number == 1


@pytest.mark.parametrize("version", ["3", "0", "-1", "1.0", "01", "latest", "²", "٣", " 1", "9" * 5000])
def test_a_version_that_is_not_there_is_not_found(version: str, tmp_path: Path, load: Load) -> None:
    make_model(tmp_path)
    with pytest.raises(NotFound) as caught:
        load().find(TASK, "tiny", version)
    assert caught.value.param == "version"


def test_a_version_that_failed_is_not_ready(tmp_path: Path, load: Load) -> None:
    folders = _versions(tmp_path, 1, 2)
    _missing_graph(folders[2])
    with pytest.raises(NotReady, match=r"model\.onnx is missing") as caught:
        load().find(TASK, "tiny", "2")
    assert caught.value.param == "version"


def test_before_its_models_are_loaded_the_catalog_is_not_ready(repository: Path) -> None:
    with pytest.raises(NotReady, match="loading"):
        Catalog.of_folder(repository).find(TASK)


def test_a_closed_catalog_takes_no_more_items(tmp_path: Path, load: Load) -> None:
    _not_onnx(make_model(tmp_path, "broken"))
    make_model(tmp_path, "good")
    catalog = load()
    catalog.close("the server is shutting down")
    version = catalog.find(TASK, "good")
    pixels = np.zeros((8, 8, 1), np.uint8)

    async def ask() -> None:
        pending = PendingRequest(deadline=math.inf)
        pending.fill([{"image": pixels}], [1])
        version.batcher.submit(pending)

    with pytest.raises(NotReady, match="shutting down"):
        asyncio.run(ask())


# --- what this host changes ------------------------------------------------------------------


def test_a_model_has_an_instance_on_each_lane_that_this_host_gives_it(
    tmp_path: Path, load: Load, lanes: Lanes
) -> None:
    make_model(tmp_path)
    make_model(tmp_path, "other")
    overrides = Overrides().with_model("tiny", ModelOverrides(lanes=2, threads=1))
    catalog = load(overrides=overrides)
    assert catalog.find(TASK, "tiny").devices == (Device("cpu"), Device("cpu", 1))
    assert catalog.find(TASK, "other").devices == (Device("cpu"),)
    assert sorted(state.device for state in lanes.states()) == ["cpu", "cpu:1"]


def test_batching_is_what_this_host_says(tmp_path: Path, load: Load) -> None:
    make_model(tmp_path)
    overrides = Overrides().with_model("tiny", ModelOverrides(batching=Batching(max_items=3)))
    assert load(overrides=overrides).find(TASK).manifest.batching.max_items == 3


def test_overrides_of_a_model_that_is_not_there_are_told(
    tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(tmp_path)
    load(overrides=Overrides().with_model("tyni", ModelOverrides(threads=1)))
    assert "tyni" in caplog.text


def test_of_several_variants_the_first_for_the_device_serves_unless_the_host_wants_another(
    tmp_path: Path, load: Load
) -> None:
    folder = make_model(tmp_path)
    shutil.copy(folder / "model.onnx", folder / "model.int8.onnx")
    variants = tuple(
        Variant(file=file, precision=precision, devices=devices, tolerance={"probabilities": 1e-4})
        for file, precision, devices in (
            ("model.onnx", "fp16", ("cuda",)),
            ("model.int8.onnx", "int8", ("cpu",)),
            ("model.onnx", "fp32", ("cpu", "cuda")),
        )
    )
    finish_version(folder, variants=variants)
    for wanted, served in (("auto", "int8"), ("fp32", "fp32"), ("int8", "int8")):
        version = load(overrides=Overrides().with_model("tiny", ModelOverrides(precision=wanted))).find(TASK)
        assert version.variant is not None
        assert version.variant.precision == served
    model = load(overrides=Overrides().with_model("tiny", ModelOverrides(precision="fp16"))).models["tiny"]
    assert "no fp16 variant is for cpu" in model.problem


@pytest.mark.parametrize(
    ("options", "seconds", "expected"),
    [
        ({"cpu": CpuPlan(threads=3)}, 0.0001, [1]),  # a small graph
        ({"cpu": CpuPlan(threads=3)}, 0.01, [1, 3]),  # timed with one thread, then opened with all
        ({"cpu": CpuPlan(threads=3, asked=True)}, 0.0001, [3]),
        ({"cpu": CpuPlan(threads=3), "overrides": two_threads()}, 0.01, [2]),
        ({"cpu": CpuPlan(threads=1)}, 0.01, [1]),
    ],
)
def test_threads_are_for_graphs_that_gain_by_them_unless_somebody_named_a_number(
    tmp_path: Path,
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
    *,
    options: dict[str, Any],
    seconds: float,
    expected: list[int],
) -> None:
    make_model(tmp_path)
    opened: list[int] = []

    def open_session(path: Path, device: Device, *, threads: int, spinning: bool) -> Session:
        opened.append(threads)
        return Session(path, device, threads=threads, spinning=spinning)

    monkeypatch.setattr("service.repository.sessions.Session", open_session)
    monkeypatch.setattr("service.repository.sessions.time_golden_row", lambda *_: seconds)
    assert load(**options).find(TASK).state == "ready"
    assert opened == expected


def test_how_long_a_graph_takes_is_seen_on_its_golden_row(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    session = Session(folder / "model.onnx", Device("cpu"))
    assert time_golden_row(session, folder) > 0
    (folder / "golden.npz").write_bytes(b"words")
    assert time_golden_row(session, folder) == 0

import copy
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import (
    VERSION_FILE,
    GoldenCases,
    ModelManifest,
    VersionFacts,
    read,
    sha256_of,
)
from service.tasks import TASKS, Limits
from tests.training.conftest import Trained
from training.core import export
from training.core.export import OPSET, write_graph
from training.core.job import newest_version
from training.core.version_folder import Destination
from training.errors import DataRejected, ExportFailed
from training.networks.resnet import ImageClassifier


def export_again(trained: Trained, destination: Destination) -> Path:
    return trained.steps.publish(trained.learner, trained.data, destination)[0]


def test_an_exported_version_passes_the_services_golden_check(exported: Path) -> None:
    facts = read(exported / VERSION_FILE, VersionFacts)
    task = TASKS["image-classification"](exported, facts)
    run = Session(exported / facts.variants[0].file, Device("cpu")).run
    check_files(exported, facts)
    differences = check_arrays(exported, facts.variants[0], task, run)
    check_cases(exported, task, run, Limits())
    assert differences["probabilities"] < 1e-5


def test_every_file_of_a_version_is_hashed(exported: Path) -> None:
    facts = read(exported / VERSION_FILE, VersionFacts)
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert files - {VERSION_FILE} == set(facts.files)
    assert all(sha256_of(exported / name) == value for name, value in facts.files.items())


def test_the_graph_does_not_tell_where_it_was_made(exported: Path) -> None:
    graph = (exported / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[3]).encode() not in graph
    assert b'File "' not in graph


def test_the_graph_takes_pixels_and_gives_probabilities_for_any_batch(exported: Path) -> None:
    session = Session(exported / "model.onnx", Device("cpu"))
    (image,), (probabilities,) = session.inputs, session.outputs
    assert (image.name, image.dtype, image.shape) == ("image", "uint8", (None, 16, 16, 3))
    assert (probabilities.name, probabilities.dtype, probabilities.shape) == (
        "probabilities",
        "float32",
        (None, 3),
    )
    (opset,) = (
        entry.version for entry in onnx.load(exported / "model.onnx").opset_import if not entry.domain
    )
    assert opset == OPSET


def test_a_picture_alone_gets_the_answer_it_gets_in_a_batch(exported: Path) -> None:
    session = Session(exported / "model.onnx", Device("cpu"))
    batch = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)
    together = session.run({"image": batch})["probabilities"]
    alone = np.concatenate([session.run({"image": batch[i : i + 1]})["probabilities"] for i in range(9)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_golden_cases_are_right_answers_to_files_of_several_classes(trained: Trained, exported: Path) -> None:
    cases = read(exported / "golden" / "golden.yaml", GoldenCases).cases
    labels = {case.file.split("-")[1].split(".")[0] for case in cases}
    assert labels == set(trained.learner.labels)
    for case in cases:
        best = case.answer["predictions"][0]["label"]  # type: ignore[index]
        assert f"-{best}." in case.file


def test_a_card_and_a_manifest_stand_beside_the_version(exported: Path) -> None:
    manifest = read(exported.parent / "model.yaml", ModelManifest)
    assert (manifest.name, manifest.task) == ("shapes", "image-classification")
    card = (exported.parent / "README.md").read_text(encoding="utf-8")
    assert "kotae-train build shapes.yaml" in card
    assert "| disc |" in card


@pytest.mark.parametrize("fresh", [True, False], ids=["new model", "next to a version"])
def test_an_export_that_is_not_the_network_writes_nothing_and_says_by_how_much(
    trained: Trained, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    if not fresh:
        shutil.copytree(exported.parent, tmp_path / "shapes")
    before = sorted(tmp_path.rglob("*"))

    def export_another(network: ImageClassifier, *rest: object) -> None:
        other = copy.deepcopy(network)
        with torch.no_grad():
            next(reversed(list(other.parameters()))).add_(torch.tensor([0.5, 0.0, 0.0]))
        write_graph(other, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "write_graph", export_another)
    with pytest.raises(
        ExportFailed, match=r"output probabilities .* differs from PyTorch by 0\.\d+ at batch"
    ):
        export_again(trained, Destination(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_version_is_replaced_only_when_asked_to(trained: Trained, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported.parent, tmp_path / "shapes")
    with pytest.raises(DataRejected, match="--overwrite"):
        export_again(trained, Destination(tmp_path, version=1))
    (tmp_path / "shapes" / "1" / "stale.txt").write_text("from before")
    folder = export_again(trained, Destination(tmp_path, version=1, overwrite=True))
    assert folder == tmp_path / "shapes" / "1"
    assert not (folder / "stale.txt").exists()
    assert not list(folder.parent.glob(".*"))


def test_the_next_version_leaves_the_owners_files_alone(
    trained: Trained, exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported.parent, tmp_path / "shapes")
    manifest = tmp_path / "shapes" / "model.yaml"
    manifest.write_text(manifest.read_text().replace("deadline_seconds: 1.0", "deadline_seconds: 3.0"))
    assert newest_version(tmp_path / "shapes") == tmp_path / "shapes" / "1"
    assert export_again(trained, Destination(tmp_path)) == tmp_path / "shapes" / "2"
    assert read(manifest, ModelManifest).deadline_seconds == 3.0
    assert newest_version(tmp_path / "shapes") == tmp_path / "shapes" / "2"


def test_a_folder_of_another_model_is_not_written_to(
    trained: Trained, exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported.parent, tmp_path / "shapes")
    manifest = tmp_path / "shapes" / "model.yaml"
    manifest.write_text(manifest.read_text().replace("name: shapes", "name: letters"))
    with pytest.raises(DataRejected, match="is of letters"):
        export_again(trained, Destination(tmp_path))


def test_provenance_is_enough_to_make_the_version_again(trained: Trained, exported: Path) -> None:
    provenance = read(exported / VERSION_FILE, VersionFacts).provenance
    assert provenance.command == trained.job.command
    assert provenance.seed == trained.job.recipe.seed
    assert provenance.library_versions["torch"] == torch.__version__
    assert "disc 24" in provenance.data

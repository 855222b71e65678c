import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from tests.training.conftest import Trained, fill_folder, tiny_recipe
from training.errors import DataRejected
from training.images.metrics import accuracy_by_look, measure
from training.images.predict import predict_with_checkpoint, predict_with_version
from training.images.redraw import redraw
from training.images.steps import ImageSteps

CLASSES = ("a", "b", "c")


def sure(answers: list[int], confidence: float = 1.0) -> NDArray[np.float32]:
    rest = (1 - confidence) / (len(CLASSES) - 1)
    rows = np.full((len(answers), len(CLASSES)), rest, np.float32)
    rows[np.arange(len(answers)), answers] = confidence
    return rows


def test_perfect_answers_have_perfect_figures() -> None:
    labels = np.array([0, 1, 2, 2])
    figures = measure(sure([0, 1, 2, 2]), labels, CLASSES)
    assert (figures.items, figures.accuracy, figures.macro_f1) == (4, 1.0, 1.0)
    assert figures.calibration_error == pytest.approx(0, abs=1e-6)
    assert figures.confusion == ((1, 0, 0), (0, 1, 0), (0, 0, 2))


def test_known_mistakes_have_known_figures() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    figures = measure(sure([0, 0, 0, 1, 1, 1, 2, 0], 0.9), labels, CLASSES)
    assert figures.accuracy == pytest.approx(6 / 8)
    assert figures.confusion == ((3, 1, 0), (0, 2, 0), (1, 0, 1))
    a, b, c = figures.per_class
    assert (a.precision, a.recall, a.f1) == pytest.approx((3 / 4, 3 / 4, 3 / 4))
    assert (b.precision, b.recall, b.f1) == pytest.approx((2 / 3, 1.0, 0.8))
    assert (c.precision, c.recall, c.f1) == pytest.approx((1.0, 1 / 2, 2 / 3))
    assert figures.macro_f1 == pytest.approx((3 / 4 + 0.8 + 2 / 3) / 3)
    assert figures.calibration_error == pytest.approx(0.9 - 0.75, abs=1e-5)
    assert [row.items for row in figures.per_class] == [4, 2, 2]


def test_accuracy_is_split_by_how_pictures_look() -> None:
    digit = np.zeros((8, 8), np.uint8)
    digit[:, 3:5] = 255
    looks = [redraw(digit, np.random.default_rng(seed)).look for seed in range(60)]
    right = np.array([look.dark_on_light for look in looks])
    slices = accuracy_by_look(right, looks)
    assert slices["ink: dark on light"] == (1.0, int(right.sum()))
    assert slices["ink: light on dark"] == (0.0, int((~right).sum()))


def test_the_network_learns_the_small_folder(trained: Trained) -> None:
    answers = predict_with_checkpoint(trained.learner, trained.pictures)
    figures = measure(answers.plain, trained.pictures.labels, trained.learner.labels)
    assert figures.accuracy >= 0.8


def test_the_exported_graph_answers_files_as_the_checkpoint_does(trained: Trained, exported: Path) -> None:
    expected = predict_with_checkpoint(trained.learner, trained.pictures)
    got = predict_with_version(exported, trained.pictures)
    np.testing.assert_allclose(got.plain, expected.plain, atol=1e-4)


def test_the_figures_in_version_yaml_are_those_of_the_exported_graph(
    trained: Trained, exported: Path
) -> None:
    facts = read(exported / VERSION_FILE, VersionFacts)
    answers = predict_with_version(exported, trained.pictures)
    figures = measure(answers.plain, trained.pictures.labels, trained.learner.labels)
    assert facts.metrics["accuracy"] == pytest.approx(figures.accuracy, abs=1e-5)
    assert facts.metrics["held_out_items"] == figures.items == len(trained.data.parts.test)
    assert sum(facts.baseline.class_mix.values()) == pytest.approx(1.0, abs=1e-3)


def test_a_version_is_measured_without_a_checkpoint_and_a_checkpoint_by_itself(
    trained: Trained, exported: Path, tmp_path: Path
) -> None:
    job = replace(trained.job, runs=tmp_path)
    accuracy = read(exported / VERSION_FILE, VersionFacts).metrics["accuracy"]
    for checkpoint, measured in ((None, exported), (trained.job.run.best, trained.job.run.best)):
        ImageSteps(job).evaluate(checkpoint, exported.parent, 0)
        written = json.loads((job.run.folder / "evaluation.json").read_text(encoding="utf-8"))
        assert list(written) == [str(measured)]
        assert written[str(measured)]["plain"]["items"] == len(trained.pictures.files)
        assert written[str(measured)]["plain"]["accuracy"] == pytest.approx(accuracy, abs=1e-5)
        assert (job.run.folder / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_measured_is_told(trained: Trained, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="there is no version of shapes: export one first"):
        ImageSteps(trained.job).evaluate(None, tmp_path, 0)
    fill_folder(tmp_path / "other")
    (tmp_path / "other" / "disc").rename(tmp_path / "other" / "ring")
    job = replace(trained.job, recipe=tiny_recipe(tmp_path / "other"))
    for checkpoint in (None, trained.job.run.best):
        with pytest.raises(DataRejected, match="has other labels than"):
            ImageSteps(job).evaluate(checkpoint, exported.parent, 0)

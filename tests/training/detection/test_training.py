import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import VERSION_FILE, GoldenCases, VersionFacts, read
from service.tasks import TASKS, Limits
from tests.training.conftest import silent_console
from tests.training.detection.fixtures import SIDE, tiny_detection_recipe, write_coco_folder
from training import __main__ as command_line
from training.core.job import Job
from training.core.trainer import load_learner
from training.core.version_folder import Destination
from training.detection.calibration import best_threshold, calibrate_scores
from training.detection.coco import CocoFolder
from training.detection.dataset import AnnotatedImage, decode_annotated
from training.detection.learner import DetectorLearner
from training.detection.metrics import measure
from training.detection.misses import draw_misses, find_misses
from training.detection.predict import Predicted, predict_with_checkpoint, predict_with_version
from training.detection.reference_decoder import check_parity, is_unambiguous
from training.detection.steps import DetectorSteps
from training.detection.version import export_detector
from training.errors import ExportFailed
from training.networks.detector import STRIDE
from training.recipes.detection_recipe import DetectionRecipe


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads only wait for each other in networks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco_folder(tmp_path_factory.mktemp("data") / "things")


@pytest.fixture(scope="module")
def steps(annotations: Path, tmp_path_factory: pytest.TempPathFactory) -> DetectorSteps:
    recipe = tiny_detection_recipe(annotations)
    return DetectorSteps(Job(recipe, tmp_path_factory.mktemp("runs"), silent_console(), "kotae-train build"))


@pytest.fixture(scope="module")
def built(steps: DetectorSteps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of version 1; not to be changed."""
    models = tmp_path_factory.mktemp("models")
    steps.build(Destination(models))
    return models / "things" / "1"


def test_a_folder_in_cocos_format_becomes_a_model_that_finds_its_things(built: Path) -> None:
    facts = read(built / VERSION_FILE, VersionFacts)
    assert float(facts.metrics["ap50"]) > 0.8
    assert facts.metrics["held_out_items"] == 8
    assert (built / "labels.txt").read_text(encoding="utf-8") == "block\ndisc\n"
    card = (built.parent / "README.md").read_text(encoding="utf-8")
    assert f"| AP50 | {float(facts.metrics['ap50']):.4f} |" in card
    assert (built.parent / "misses.jpg").is_file()


def test_the_built_version_passes_the_services_golden_check(built: Path) -> None:
    facts = read(built / VERSION_FILE, VersionFacts)
    task = TASKS["object-detection"](built, facts)
    run = Session(built / facts.variants[0].file, Device("cpu")).run
    check_files(built, facts)
    assert check_arrays(built, facts.variants[0], task, run)["boxes"] < 1e-4
    check_cases(built, task, run, Limits())
    cases = read(built / "golden" / "golden.yaml", GoldenCases).cases
    assert {Path(case.file).suffix for case in cases} == {".png", ".jpg"}
    assert all(case.answer["detections"] for case in cases)


def test_evaluating_a_version_prints_what_its_card_says(
    built: Path, steps: DetectorSteps, capsys: pytest.CaptureFixture[str]
) -> None:
    steps.evaluate(None, built.parent, 0)
    figures = json.loads((steps.job.run.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert round(figures["ap"], 5) == read(built / VERSION_FILE, VersionFacts).metrics["ap"]
    steps.evaluate(steps.job.run.best, None, 0)
    again = json.loads((steps.job.run.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert again["ap"] == pytest.approx(figures["ap"], abs=0.01)


def test_the_graph_answers_a_picture_alone_as_in_a_batch(built: Path) -> None:
    session = Session(built / "model.onnx", Device("cpu"))
    batch = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
    together = session.run({"image": batch})
    for i in range(5):
        alone = session.run({"image": batch[i : i + 1]})
        np.testing.assert_allclose(alone["scores"][0], together["scores"][i], atol=1e-5)


def test_a_graph_that_is_not_the_network_is_refused_box_by_box(
    built: Path, steps: DetectorSteps, annotations: Path
) -> None:
    learner = load_learner(steps.job.run.best, DetectorLearner)
    session = Session(built / "model.onnx", Device("cpu"))
    source = CocoFolder(tiny_detection_recipe(annotations))
    files = source.held_out_files()
    calibrate_scores(learner, source.validation_files())
    images = np.stack([decode_annotated(file, learner.recipe.input)[0] for file in files[:4]])
    assert check_parity(learner.graph, session, images, STRIDE)["boxes"] < 1e-4
    with torch.no_grad():
        assert learner.graph.box.bias is not None
        learner.graph.box.bias[0] += 0.2
    with pytest.raises(ExportFailed, match="output boxes of the exported graph differs from PyTorch by"):
        check_parity(learner.graph, session, images, STRIDE)


def test_an_interrupted_training_that_started_from_weights_goes_on_as_if_nothing_had_happened(
    steps: DetectorSteps, built: Path, annotations: Path, tmp_path: Path
) -> None:
    recipe = tiny_detection_recipe(annotations, epochs=2, least_steps=2).changed(start=built)
    whole, cut = (
        DetectorSteps(Job(recipe, tmp_path / name, silent_console(), "kotae-train fit"))
        for name in ("whole", "cut")
    )
    whole.fit(resume=False)

    def stop_at_the_second(learner: DetectorLearner) -> None:
        if learner.current_epoch == 1:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectorLearner, "on_train_epoch_start", stop_at_the_second)
        with pytest.raises(InterruptedError):
            cut.fit(resume=False)
    cut.fit(resume=True)
    expected, resumed = (load_learner(one.job.run.last, DetectorLearner).state_dict() for one in (whole, cut))
    for name, weight in expected.items():
        assert torch.equal(weight, resumed[name]), name


def test_a_network_that_is_unsure_of_plain_pictures_can_be_exported(
    annotations: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    recipe = tiny_detection_recipe(annotations)
    learner = DetectorLearner(recipe.model_dump(mode="json"), ["block", "disc"], 1).eval()
    learner.graph.score_power.fill_(0.2)  # its even doubt counts everywhere, so that rounding makes the peaks
    export_detector(learner, tmp_path / "model.onnx")
    plain = np.stack([np.full((SIDE, SIDE, 3), level, np.uint8) for level in (0, 128)])
    assert not is_unambiguous(learner.graph, plain, STRIDE).any()
    check_parity(learner.graph, Session(tmp_path / "model.onnx", Device("cpu")), plain, STRIDE)


def test_scores_are_raised_until_the_default_threshold_is_the_best_one(annotations: Path) -> None:
    files = CocoFolder(tiny_detection_recipe(annotations)).held_out_files()
    found = []
    for file in files:  # right at 0.4, wrong at 0.2
        boxes = np.concatenate([file.boxes_xyxy, file.boxes_xyxy + 30])
        scores = np.repeat([0.4, 0.2], len(file.labels))
        found.append(Predicted(boxes, scores, np.concatenate([file.labels] * 2), (SIDE, SIDE)))
    assert 0.2 < best_threshold(files, found) <= 0.4


def test_training_starts_from_a_checkpoint_or_a_version_of_ours(
    steps: DetectorSteps, built: Path, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tiny_detection_recipe(annotations, epochs=1, least_steps=1, learning_rate=1e-12)
    recipe, runs = tmp_path / "mine.yaml", tmp_path / "runs"
    recipe.write_text(yaml.safe_dump(content.model_dump(mode="json")), encoding="utf-8")
    files = CocoFolder(content).held_out_files()
    expected = predict_with_version(built, files)
    for start in (steps.job.run.best, built.parent):
        words = ["fit", str(recipe), "--from", str(start), "--runs", str(runs)]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(sys, "argv", ["kotae-train", *words])
            command_line.main()
        assert not stopped.value.code
        assert "weights of" in capsys.readouterr().out
        learner = load_learner(runs / "things" / "checkpoints" / "best.ckpt", DetectorLearner)
        calibrate_scores(learner, CocoFolder(content).validation_files())
        pictures = list(zip(files, predict_with_checkpoint(learner, files), strict=True))
        before = measure(list(zip(files, expected, strict=True)), learner.labels)
        assert measure(pictures, learner.labels).ap == pytest.approx(before.ap, abs=0.05)


@pytest.mark.parametrize(
    "change",
    [{"train_size": 100}, {"input": {"width": 100, "height": 96, "channels": 3, "resize": "letterbox"}},
     {"input": {"width": 96, "height": 96, "channels": 3, "resize": "stretch"}}],
)  # fmt: skip
def test_a_recipe_that_the_network_cannot_halve_is_refused(
    annotations: Path, change: dict[str, object]
) -> None:
    content = tiny_detection_recipe(annotations).model_dump(mode="json")
    with pytest.raises(ValueError, match="must"):
        DetectionRecipe.model_validate({**content, **change})


def test_a_box_of_exactly_a_slices_end_is_in_the_slice_above_only(annotations: Path) -> None:
    file = CocoFolder(tiny_detection_recipe(annotations)).held_out_files()[0]
    boxes = np.array([[0.0, 0, 30, 24]])
    file = AnnotatedImage(file.name, file.file, boxes, np.array([0]))
    found = Predicted(boxes, np.array([0.9]), np.array([0]), (SIDE, SIDE))
    heights = measure([(file, found)], ("block", "disc")).heights
    assert (heights["below 24 px"].things, heights["below 24 px"].ap) == (0, None)
    assert (heights["24 to 47 px"].things, heights["24 to 47 px"].ap) == (1, 1)


def test_figures_are_1_for_the_truth_and_tell_every_kind_of_miss(tmp_path: Path, annotations: Path) -> None:
    file = CocoFolder(tiny_detection_recipe(annotations)).held_out_files()[0]
    file = AnnotatedImage(file.name, file.file, file.boxes_xyxy, file.labels, ("light: day",))
    size = (SIDE, SIDE)
    right = Predicted(file.boxes_xyxy, np.array([0.9, 0.8]), file.labels, size)
    figures = measure([(file, right)], ("block", "disc"))
    assert (figures.ap, figures.ap50, figures.precision, figures.recall) == (1, 1, 1, 1)
    assert figures.traits["light: day"].things == 2
    assert sum(part.things for part in figures.heights.values()) == 2
    wrong = Predicted(file.boxes_xyxy[:1], np.array([0.9]), 1 - file.labels[:1], size)
    figures = measure([(file, wrong)], ("block", "disc"))
    assert figures.precision == figures.recall == 0
    misses = find_misses([file], [wrong], ("block", "disc"))
    assert [miss.answered_xyxy is None for miss in misses] == [False, True]
    draw_misses(misses, tmp_path / "misses.jpg")
    draw_misses([], tmp_path / "none.jpg")
    assert (tmp_path / "none.jpg").is_file()

from __future__ import annotations

import dataclasses
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
from service.tasks import TASKS, Limits, answer_one
from tests.training.text.conftest import Shipped, job_in, label_recipe, said_by
from training import __main__ as command_line
from training.core.card import metrics_of_card
from training.core.job import Job, Run
from training.core.samplers import StepNumbers
from training.core.trainer import load_learner
from training.core.version_folder import Destination
from training.core.warm_start import read_pretrained
from training.errors import DataRejected
from training.recipes.text_recipe import TextClassificationRecipe
from training.text.classification.calibration import best_temperature, calibrate, threshold_for
from training.text.classification.fit import open_labelled
from training.text.classification.learner import TextClassifierLearner, soft_targets
from training.text.classification.metrics import LabelPrediction, tally
from training.text.classification.steps import TextClassificationSteps
from training.text.classification.windows import WindowBatches, cut_window, draw_windows, vary_case
from training.text.dataset import LabelledTexts
from training.text.tokens import byte_tokenizer


class PowerCut(Exception):
    """Stops a training run in the middle."""


def test_a_version_passes_the_services_golden_check_and_knows_its_labels(words_model: Shipped) -> None:
    folder = words_model.version
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = TASKS["text-classification"](folder, facts)
    run = Session(folder / "model.onnx", Device("cpu")).run
    check_files(folder, facts)
    assert check_arrays(folder, facts.variants[0], task, run)["probabilities"] < 1e-5
    check_cases(folder, task, run, Limits())
    assert task.labels == ("de", "en", "pl")
    assert facts.unknown_below is not None
    answer = answer_one(task, run, "where is this house today", Limits(), task.parameters())
    assert answer["predictions"][0]["label"] == "en"  # type: ignore[index]


def test_the_graph_takes_any_number_of_texts_of_any_length(words_model: Shipped) -> None:
    session = Session(words_model.version / "model.onnx", Device("cpu"))
    assert [spec.name for spec in session.inputs] == ["input_ids", "attention_mask"]
    for spec in session.inputs:
        assert (spec.dtype, spec.shape) == ("int64", (None, None))
    for shape in ((1, 1), (5, 2), (2, 199)):
        ids = np.full(shape, 66, np.int64)
        outputs = session.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert outputs["probabilities"].shape == (shape[0], 3)


def test_what_evaluate_prints_is_what_the_card_shows(
    words_model: Shipped, label_file: Path, tmp_path: Path
) -> None:
    card = (words_model.version.parent / "README.md").read_text(encoding="utf-8")
    job = job_in(tmp_path, label_recipe(label_file))
    TextClassificationSteps(job).evaluate(None, words_model.version.parent, 0)
    printed = said_by(job).strip()
    assert printed == metrics_of_card(card)
    assert "Worst slices" in printed
    assert "windows of 20 characters" in printed
    facts = read(words_model.version / VERSION_FILE, VersionFacts)
    assert f"{float(facts.metrics['accuracy']):.2%}" in printed


def test_exporting_again_renews_the_figures_and_leaves_the_owners_words(
    words_model: Shipped, label_file: Path, tmp_path: Path
) -> None:
    job = job_in(tmp_path, label_recipe(label_file))
    place = Destination(tmp_path / "models")
    best = words_model.folder / "runs" / "words" / "checkpoints" / "best.ckpt"
    TextClassificationSteps(job).export(best, place)
    card = tmp_path / "models" / "words" / "README.md"
    text = card.read_text(encoding="utf-8").replace("## Data", "## My data").replace("| pl |", "| xx |")
    card.write_text(text, encoding="utf-8")
    TextClassificationSteps(job).export(best, dataclasses.replace(place, version=1, overwrite=True))
    renewed = card.read_text(encoding="utf-8")
    assert "## My data" in renewed
    assert "| pl |" in renewed


def test_golden_texts_are_rightly_answered_ones_of_every_label(words_model: Shipped) -> None:
    cases = read(words_model.version / "golden" / "golden.yaml", GoldenCases).cases
    assert {case.file[3:5] for case in cases} == {"de", "en", "pl"}
    for case in cases:
        assert case.answer["predictions"][0]["label"] == case.file[3:5]  # type: ignore[index]


def test_data_with_other_labels_and_models_without_a_version_are_refused(
    words_model: Shipped, tmp_path: Path
) -> None:
    other = tmp_path / "a.csv"
    rows = "".join(f"text {n},{'ab'[n % 2]},{n}\n" for n in range(40))
    other.write_text("text,label,group\n" + rows, encoding="utf-8")
    steps = TextClassificationSteps(job_in(tmp_path, label_recipe(other)))
    with pytest.raises(DataRejected, match="other labels"):
        steps.evaluate(None, words_model.version.parent, 0)
    with pytest.raises(DataRejected, match="no version"):
        steps.evaluate(None, tmp_path / "nothing", 0)
    with pytest.raises(DataRejected, match="not trained in blocks"):
        steps.evaluate(None, words_model.version.parent, 3)
    with pytest.raises(DataRejected, match="export the checkpoint"):
        steps.evaluate(tmp_path / "best.ckpt", None, 0)


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(label_file: Path, tmp_path: Path) -> None:
    recipe = label_recipe(label_file, epochs=2, passes=1)
    whole, broken = job_in(tmp_path / "whole", recipe), job_in(tmp_path / "broken", recipe)
    TextClassificationSteps(whole).fit(resume=False)
    stop_after_first_epoch(broken)
    TextClassificationSteps(broken).fit(resume=True)
    first, second = (
        load_learner(job.run.last, TextClassifierLearner).state_dict() for job in (whole, broken)
    )
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0)


def test_a_text_classifier_starts_from_a_version_of_ours(
    words_model: Shipped, label_file: Path, tmp_path: Path
) -> None:
    recipe = label_recipe(label_file, epochs=1, learning_rate=1e-12).changed(start=words_model.version)
    job = job_in(tmp_path, recipe)
    TextClassificationSteps(job).fit(resume=False)
    assert f"weights of {words_model.version}" in said_by(job)
    weights = load_learner(job.run.best, TextClassifierLearner).graph.state_dict()
    for name, weight in read_pretrained(words_model.version).weights.items():
        if weight.ndim > 1 and name in weights:
            torch.testing.assert_close(weights[name], weight)


def stop_after_first_epoch(job: Job[TextClassificationRecipe]) -> None:
    """Train with a power cut when the second epoch begins."""
    original = StepNumbers.__iter__

    def cut(self: StepNumbers) -> Iterator[int]:
        if self._epoch == 1:
            raise PowerCut
        yield from original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepNumbers, "__iter__", cut)
        with pytest.raises(PowerCut):
            TextClassificationSteps(job).fit(resume=False)


def test_a_group_is_in_one_part_only(label_file: Path) -> None:
    data = open_labelled(label_recipe(label_file))
    parts = [data.parts.train, data.parts.validation, data.parts.test]
    groups = [{data.table.groups[i] for i in part} for part in parts]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert sum(map(len, parts)) == len(data.table.texts)
    assert abs(len(data.parts.test) - 0.2 * len(data.table.texts)) < 10


def table_of(*texts: str) -> LabelledTexts:
    return LabelledTexts(texts, np.arange(len(texts)) % 2, texts, ("a", "b"), "")


def test_windows_have_their_length_and_never_cut_a_character() -> None:
    random = np.random.default_rng(0)
    text = "日本語 😀 eé" * 5
    for _ in range(50):
        window = cut_window(text, 4, random)
        assert len(window) == 4
        assert window in text
    assert cut_window("short", 9, random) == "short"
    assert cut_window("long text", -4, random) == "long"
    assert vary_case("straße", random).lower().replace("ss", "ß") == "straße"


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    table = table_of("one text", "another text", "a third", "the last one")

    def batch(seed: int, step: int) -> list[list[int]]:
        batches = WindowBatches(table, np.arange(4), None, batch_size=8, most_tokens=50, seed=seed)
        ids, _, _ = batches[step]
        return ids.tolist()

    assert batch(1, 5) == batch(1, 5)
    assert batch(1, 5) != batch(1, 6)
    assert batch(1, 5) != batch(2, 5)


def test_short_texts_have_no_windows_to_be_measured_on() -> None:
    windows, owners = draw_windows(table_of("0123456789abc", "tiny", "a longer text"), np.arange(3), 8, 0)
    assert owners.tolist() == [0, 2]
    assert all(len(window) == 8 for window in windows)


def test_texts_that_are_none_of_the_labels_are_to_leave_the_network_unsure() -> None:
    targets = soft_targets(torch.tensor([1, -1]), 4)
    torch.testing.assert_close(targets, torch.tensor([[0.0, 1, 0, 0], [0.25, 0.25, 0.25, 0.25]]))


def test_the_threshold_is_the_lowest_that_is_right_often_enough() -> None:
    best = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    probabilities = np.stack([best, 1 - best], axis=1)
    labels = np.array([0, 0, 0, 1, 1])
    assert threshold_for(probabilities, labels, 0.99) == pytest.approx(0.7, abs=1e-3)
    assert threshold_for(probabilities, labels, 0.7) == pytest.approx(0.6, abs=1e-3)
    assert threshold_for(probabilities, np.ones(5, np.int64), 0.9) == pytest.approx(0.9, abs=1e-3)


def test_the_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.normal(size=(4000, 3)))
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert best_temperature(logits * 2, labels) == pytest.approx(2, rel=0.15)


def test_unknown_counts_as_wrong_but_not_as_answered() -> None:
    answers = [
        LabelPrediction("a", "a", 0.9),
        LabelPrediction("unknown", "a", 0.3),
        LabelPrediction("b", "b", 0.8),
        LabelPrediction("a", "a", 0.9),
    ]
    counts = tally(["a", "a", "a", "unknown"], answers)
    assert (counts.items, counts.answered, counts.right, counts.best_right) == (3, 2, 1, 2)
    assert counts.coverage == pytest.approx(2 / 3)
    assert counts.answered_accuracy == pytest.approx(1 / 2)


def test_every_byte_of_a_text_reaches_the_network() -> None:
    assert len(byte_tokenizer().encode("ab\0é").ids) == 5


def test_a_csv_file_of_anyones_trains_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = label_recipe(tmp_path / "not-this-one.jsonl", epochs=1, passes=1).model_dump(mode="json")
    recipe["data"] |= {"group": None, "unknown": None}
    recipe["windows"] = None
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    rows = "".join(f"{('poor', 'good')[n % 2]} work {n},{('down', 'up')[n % 2]}\n" for n in range(60))
    (tmp_path / "mine.csv").write_text("text,label\n" + rows, encoding="utf-8")
    arguments = ["fit", tmp_path / "mine.yaml", "--data", tmp_path / "mine.csv", "--runs", tmp_path / "runs"]
    monkeypatch.setattr(sys, "argv", ["kotae-train", *map(str, arguments), "--name", "tone"])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    assert not stopped.value.code
    assert load_learner(Run(tmp_path / "runs" / "tone").best, TextClassifierLearner).labels == ("down", "up")


def test_without_windows_there_is_no_threshold(label_file: Path) -> None:
    recipe = label_recipe(label_file).model_copy(update={"windows": None})
    data = open_labelled(recipe)
    learner = TextClassifierLearner(recipe.model_dump(mode="json"), list(data.table.classes), 1).eval()
    assert calibrate(learner, data, recipe) is None

"""From a table of recordings to a version that the service takes, and back through its golden check."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import VERSION_FILE, GoldenCases, VersionFacts, read
from service.tasks import TASKS, Limits
from service.tasks.audio.speech_recognition import SpeechRecognition
from tests.training.conftest import silent_console
from tests.training.speech.tones import RATE, WORDS, melody, tiny_speech_recipe, write_melodies
from training.core.curves import read_curves
from training.core.export import Arrays, check_parity, torch_run
from training.core.job import Job
from training.core.registry import steps_for
from training.core.trainer import load_learner
from training.core.version_folder import Destination
from training.errors import DataRejected, ExportFailed
from training.recipes.load import load_recipe
from training.recipes.speech_recipe import SpeechRecipe, WordSearch
from training.speech.export import parity_batches
from training.speech.recognition.golden import choose_golden_speech
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.steps import SpeechSteps
from training.speech.recognition.version import compare_log_probs, transcription_of, write_words
from training.speech.speech_table import SpeechTable


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads only wait for each other in networks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_melodies(tmp_path_factory.mktemp("data") / "melodies")


@pytest.fixture(scope="module")
def steps(table: Path, tmp_path_factory: pytest.TempPathFactory) -> SpeechSteps:
    recipe = tiny_speech_recipe(table)
    return SpeechSteps(Job(recipe, tmp_path_factory.mktemp("runs"), silent_console(), "kotae-train build"))


@pytest.fixture(scope="module")
def built(steps: SpeechSteps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of version 1; not to be changed."""
    models = tmp_path_factory.mktemp("models")
    steps.build(Destination(models))
    return models / "melodies" / "1"


def fitted(recipe: SpeechRecipe, runs: Path, *, resume: bool = False) -> SpeechLearner:
    job = Job(recipe, runs, silent_console(), "kotae-train fit")
    SpeechSteps(job).train(SpeechTable(job.recipe), resume=resume)
    return load_learner(job.run.last, SpeechLearner)


def test_a_table_of_recordings_becomes_a_model_that_hears_its_words(built: Path) -> None:
    facts = read(built / VERSION_FILE, VersionFacts)
    assert float(facts.metrics["word_error_rate"]) < 0.1
    assert (built / "words.txt").read_text(encoding="utf-8").split() == sorted(WORDS)
    assert (built / "tokens.txt").read_text(encoding="utf-8").startswith("<blank>\na\nb\n")
    assert facts.transcription is not None
    assert facts.transcription.frame_seconds == pytest.approx(0.064)
    card = (built.parent / "README.md").read_text(encoding="utf-8")
    assert f"{float(facts.metrics['word_error_rate']):.2%}" in card
    assert (built.parent / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_built_version_passes_the_services_golden_check(built: Path) -> None:
    facts = read(built / VERSION_FILE, VersionFacts)
    task = TASKS["speech-recognition"](built, facts)
    run = Session(built / facts.variants[0].file, Device("cpu")).run
    check_files(built, facts)
    assert check_arrays(built, facts.variants[0], task, run)["log_probs"] < 1e-3
    check_cases(built, task, run, Limits())
    cases = read(built / "golden" / "golden.yaml", GoldenCases).cases
    assert all(case.answer["words"] for case in cases)


def test_evaluating_a_version_prints_what_its_card_says(
    built: Path, steps: SpeechSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(steps.job.console, "file", told)
    steps.evaluate(None, built.parent, 0)
    assert told.getvalue().strip() in (built.parent / "README.md").read_text(encoding="utf-8")
    with pytest.raises(DataRejected, match="export the checkpoint first"):
        steps.evaluate(steps.job.run.best, None, 0)
    with pytest.raises(DataRejected, match="no version"):
        steps.evaluate(None, built.parent / "nothing", 0)


def test_the_graph_hears_an_item_alone_as_in_a_padded_batch(built: Path) -> None:
    run = Session(built / "model.onnx", Device("cpu")).run
    random = np.random.default_rng(8)
    lengths = np.array([5000, 800, 12_345], dtype=np.int64)
    audio = random.normal(0, 0.1, (3, 12_345)).astype(np.float32)
    together = run({"audio": audio, "lengths": lengths})
    for i, length in enumerate(lengths.tolist()):
        alone = run({"audio": audio[i : i + 1, :length], "lengths": lengths[i : i + 1]})
        count = int(together["frames"][i])
        assert alone["log_probs"].shape[1] == count
        np.testing.assert_allclose(alone["log_probs"][0], together["log_probs"][i, :count], atol=1e-4)


def test_a_graph_that_is_not_the_network_is_refused(built: Path, steps: SpeechSteps) -> None:
    learner = load_learner(steps.job.run.best, SpeechLearner)
    run = Session(built / "model.onnx", Device("cpu")).run
    sounds = [melody(["do", "so"], np.random.default_rng(seed)) for seed in range(4)]
    reference = torch_run(learner.graph, "speech-recognition")
    assert check_parity(reference, run, parity_batches(sounds, RATE), compare_log_probs) < 1e-4
    with torch.no_grad():
        assert learner.graph.head.bias is not None
        learner.graph.head.bias[3] += 0.5
    with pytest.raises(ExportFailed, match="log_probs of the exported graph differs from PyTorch by"):
        check_parity(reference, run, parity_batches(sounds, RATE), compare_log_probs)


def test_a_resumed_training_ends_with_the_same_weights(table: Path, tmp_path: Path) -> None:
    whole = tiny_speech_recipe(table, epochs=3, least_steps=3)
    at_once = fitted(whole, tmp_path / "at once")
    # Cut off after the first epoch: what follows is as if it had not been.
    recipe = whole.model_dump(mode="json")
    job = Job(whole, tmp_path / "cut", silent_console(), "kotae-train fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpeechLearner, "on_train_epoch_start", _stop_at_the_second)
        with pytest.raises(InterruptedError):
            SpeechSteps(job).train(SpeechTable(job.recipe), resume=False)
    resumed = fitted(SpeechRecipe.model_validate(recipe), tmp_path / "cut", resume=True)
    for name, weight in at_once.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, msg=name)
    steps_logged, rates = read_curves(tmp_path / "cut" / "melodies")["validation_wer"]
    assert len(steps_logged) == len(rates) == 3


def _stop_at_the_second(learner: SpeechLearner) -> None:
    if learner.current_epoch == 1:
        raise InterruptedError


def test_processes_that_learn_together_share_every_batch(table: Path, tmp_path: Path) -> None:
    recipe = tiny_speech_recipe(table, epochs=1, least_steps=3).model_copy(update={"processes": 2})
    together = fitted(recipe, tmp_path)
    fresh = SpeechLearner(recipe.model_dump(mode="json"), list(together.labels), 3)
    assert not torch.equal(together.graph.head.weight, fresh.graph.head.weight)
    assert len(read_curves(tmp_path / "melodies")["validation_loss"][0]) == 1


def test_training_starts_from_a_checkpoint_or_a_version_of_ours(
    table: Path, steps: SpeechSteps, built: Path, tmp_path: Path
) -> None:
    expected = load_learner(steps.job.run.best, SpeechLearner).graph.state_dict()
    for start in (steps.job.run.best, built):
        recipe = tiny_speech_recipe(table, epochs=1, least_steps=1, learning_rate=1e-12).changed(start=start)
        for name, weight in fitted(recipe, tmp_path).graph.state_dict().items():
            torch.testing.assert_close(weight, expected[name])


def test_a_model_may_only_spell(tmp_path: Path) -> None:
    write_words(tmp_path, ["a b"], None)
    assert not list(tmp_path.iterdir())
    assert transcription_of(0.032, None).words is None
    write_words(tmp_path, ["B a", "b"], WordSearch(order=0))
    assert (tmp_path / "words.txt").read_text(encoding="utf-8") == "a\nb\n"
    assert transcription_of(0.032, WordSearch(order=0)).language_model is None


def test_a_network_that_hears_nothing_rightly_is_not_exported(built: Path, steps: SpeechSteps) -> None:
    task = SpeechRecognition(built, read(built / VERSION_FILE, VersionFacts))

    def deaf(inputs: Arrays) -> Arrays:
        frames = -(-inputs["lengths"] // round(0.064 * RATE))
        log_probs = np.full((len(frames), int(frames.max()), 29), -9.0, dtype=np.float32)
        log_probs[..., 0] = 0.0
        return {"log_probs": log_probs, "frames": frames}

    files = SpeechTable(steps.job.recipe).validation_files()
    with pytest.raises(ExportFailed, match="train it first"):
        choose_golden_speech(task, deaf, files)


def test_the_shipped_recipe_is_one_for_speech_and_takes_a_users_table(table: Path, tmp_path: Path) -> None:
    recipe = load_recipe("spoken-commands")
    assert isinstance(recipe, SpeechRecipe)
    own = recipe.changed(data=table, name="mine", seed=None)
    assert isinstance(own, SpeechRecipe) and own.data.kind == "speech-table"
    assert isinstance(steps_for(own, tmp_path, silent_console(), ""), SpeechSteps)
    with table.open(encoding="utf-8") as lines:
        assert len(list(csv.DictReader(lines))) == 160

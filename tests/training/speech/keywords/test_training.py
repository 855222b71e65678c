"""From a table of labelled sounds to a version that the service takes, and back through its golden check."""

import csv
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import (
    VERSION_FILE,
    AudioInput,
    GoldenCases,
    ModelManifest,
    VersionFacts,
    read,
)
from service.tasks import TASKS, Limits
from tests.training.conftest import silent_console
from tests.training.speech.tones import RATE, WORDS, melody
from training.core.export import check_parity, compare_outputs, torch_run
from training.core.job import Job
from training.core.registry import steps_for
from training.core.trainer import load_learner
from training.core.version_folder import Destination
from training.core.warm_start import read_pretrained
from training.errors import DataRejected, ExportFailed
from training.recipes.load import load_recipe
from training.recipes.recipe import Optimisation, Split
from training.recipes.speech_recipe import (
    KeywordsRecipe,
    SpeechTableData,
    SpokenVoices,
    SpokenWordsData,
)
from training.speech.dataset import SpeechFile
from training.speech.export import parity_batches
from training.speech.keywords.learner import KeywordLearner
from training.speech.keywords.metrics import measure_keywords, version_metrics
from training.speech.keywords.predict import KeywordPrediction
from training.speech.keywords.steps import KeywordSteps
from training.speech.keywords.tables import keyword_tables
from training.speech.speech_table import SpeechTable

SILENCE = "silence"
VOICES = SpokenVoices(validation=("espeak:en-us+f1",), test=("flite:rms",))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads only wait for each other in networks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(6)
    labels = [*WORDS, SILENCE]
    with (folder / "notes.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["sound", "note", "player"])
        for number in range(120):
            label = labels[number % len(labels)]
            name = f"{number:03d}.wav"
            sound = melody([] if label == SILENCE else [label], random)
            soundfile.write(folder / name, np.pad(sound, (0, int(random.integers(2000, 5000)))), RATE)
            rows.writerow([name, label, f"player {number // 8}"])
    return folder / "notes.csv"


def tiny_recipe(table: Path, **optimisation: float) -> KeywordsRecipe:
    wanted = {"epochs": 5, "least_steps": 30, "batch_size": 16, "learning_rate": 1e-2, **optimisation}
    return KeywordsRecipe(
        manifest=ModelManifest(name="notes", task="audio-classification", required=False),
        data=SpeechTableData(path=table, audio="sound", text="note", group="player"),
        input=AudioInput(sample_rate=RATE, max_seconds=2),
        split=Split(test=0.2, validation=0.2, seed=1),
        mels=24,
        hop_seconds=0.016,
        widths=(8, 12, 24),
        dropout=0.0,
        optimisation=Optimisation.model_validate(wanted),
    )


@pytest.fixture(scope="module")
def steps(table: Path, tmp_path_factory: pytest.TempPathFactory) -> KeywordSteps:
    job = Job(tiny_recipe(table), tmp_path_factory.mktemp("runs"), silent_console(), "kotae-train build")
    return KeywordSteps(job)


@pytest.fixture(scope="module")
def built(steps: KeywordSteps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of version 1; not to be changed."""
    models = tmp_path_factory.mktemp("models")
    steps.build(Destination(models))
    return models / "notes" / "1"


def fitted(recipe: KeywordsRecipe, runs: Path, *, resume: bool = False) -> KeywordLearner:
    job = Job(recipe, runs, silent_console(), "kotae-train fit")
    KeywordSteps(job).train(SpeechTable(job.recipe), resume=resume)
    return load_learner(job.run.last, KeywordLearner)


def test_a_table_of_sounds_becomes_a_model_that_tells_them_apart(built: Path) -> None:
    facts = read(built / VERSION_FILE, VersionFacts)
    assert float(facts.metrics["accuracy"]) >= 0.9
    assert facts.metrics["silence_recall"] == 1.0
    assert (built / "labels.txt").read_text(encoding="utf-8").split() == sorted([*WORDS, SILENCE])
    assert facts.baseline is not None
    assert sum(facts.baseline.class_mix.values()) == pytest.approx(1.0, abs=1e-3)
    card = (built.parent / "README.md").read_text(encoding="utf-8")
    assert f"| everything | 24 | {float(facts.metrics['accuracy']):.2%} |" in card
    assert (built.parent / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_built_version_passes_the_services_golden_check(built: Path) -> None:
    facts = read(built / VERSION_FILE, VersionFacts)
    task = TASKS["audio-classification"](built, facts)
    run = Session(built / facts.variants[0].file, Device("cpu")).run
    check_files(built, facts)
    assert check_arrays(built, facts.variants[0], task, run)["probabilities"] < 1e-4
    check_cases(built, task, run, Limits())
    cases = read(built / "golden" / "golden.yaml", GoldenCases).cases
    assert cases[0].file == "01-silence.wav"
    assert all(case.answer["predictions"] for case in cases)


def test_evaluating_a_version_prints_what_its_card_says(
    built: Path, steps: KeywordSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(steps.job.console, "file", told)
    steps.evaluate(None, built.parent, 0)
    assert told.getvalue().strip() in (built.parent / "README.md").read_text(encoding="utf-8")
    with pytest.raises(DataRejected, match="export the checkpoint first"):
        steps.evaluate(steps.job.run.best, None, 0)
    with pytest.raises(DataRejected, match="no version"):
        steps.evaluate(None, built.parent / "nothing", 0)


def test_a_version_is_measured_on_all_of_a_users_recordings(
    built: Path, steps: KeywordSteps, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(steps.job.console, "file", told)
    recipe = steps.job.recipe.model_copy(update={"data": SpokenWordsData(voices=VOICES)})
    recipe = recipe.measured_on(some_of(table, "measured.csv", ("do", "mi")))
    job = dataclasses.replace(steps.job, recipe=recipe)
    KeywordSteps(job).evaluate(None, built.parent, 0)
    assert "| everything | 60 |" in told.getvalue() and "| speaker | files | accuracy |" in told.getvalue()
    assert "| player 3 |" in told.getvalue() and "| so |" not in told.getvalue()
    other = some_of(table, "other.csv", ("do",), said="doh")
    with pytest.raises(DataRejected, match="doh is none of the model's labels, which are do, mi, "):
        KeywordSteps(dataclasses.replace(job, recipe=recipe.measured_on(other))).evaluate(
            None, built.parent, 0
        )


def some_of(table: Path, name: str, notes: tuple[str, ...], said: str = "") -> Path:
    """Write a table of some notes, with the columns that `--recordings` takes."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [
            (r["sound"], said or r["note"], r["player"]) for r in csv.DictReader(file) if r["note"] in notes
        ]
    with (table.parent / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("audio", "text", "speaker"), *rows])
    return table.parent / name


def test_the_graph_answers_an_item_alone_as_in_a_padded_batch(built: Path) -> None:
    run = Session(built / "model.onnx", Device("cpu")).run
    lengths = np.array([5000, 800, 12_345], dtype=np.int64)
    audio = np.random.default_rng(8).normal(0, 0.1, (3, 12_345)).astype(np.float32)
    together = run({"audio": audio, "lengths": lengths})["probabilities"]
    for i, length in enumerate(lengths.tolist()):
        alone = run({"audio": audio[i : i + 1, :length], "lengths": lengths[i : i + 1]})
        np.testing.assert_allclose(alone["probabilities"][0], together[i], atol=1e-4)


def test_a_graph_that_is_not_the_network_is_refused(built: Path, steps: KeywordSteps) -> None:
    learner = load_learner(steps.job.run.best, KeywordLearner)
    run = Session(built / "model.onnx", Device("cpu")).run
    sounds = [melody(["do"], np.random.default_rng(seed)) for seed in range(4)]
    reference = torch_run(learner.graph, "audio-classification")
    assert check_parity(reference, run, parity_batches(sounds, RATE), compare_outputs) < 1e-4
    with torch.no_grad():
        learner.graph.head.weight.mul_(0.5)
    with pytest.raises(ExportFailed, match="probabilities of the exported graph differs from PyTorch by"):
        check_parity(reference, run, parity_batches(sounds, RATE), compare_outputs)


def test_a_resumed_training_ends_with_the_same_weights(table: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(table, epochs=3, least_steps=3)
    at_once = fitted(recipe, tmp_path / "at once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeywordLearner, "on_train_epoch_start", _stop_at_the_second)
        with pytest.raises(InterruptedError):
            fitted(recipe, tmp_path / "cut")
    resumed = fitted(recipe, tmp_path / "cut", resume=True)
    for name, weight in at_once.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, msg=name)


def _stop_at_the_second(learner: KeywordLearner) -> None:
    if learner.current_epoch == 1:
        raise InterruptedError


def test_training_starts_from_a_version_of_ours(table: Path, built: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(table, epochs=1, least_steps=1, learning_rate=1e-12).changed(start=built.parent)
    job = Job(recipe, tmp_path, silent_console(), "kotae-train fit")
    best = KeywordSteps(job).train(SpeechTable(job.recipe), resume=False)
    weights = load_learner(best, KeywordLearner).graph.state_dict()
    for name, weight in read_pretrained(built).weights.items():
        if weight.ndim > 1 and name in weights:
            torch.testing.assert_close(weights[name], weight)


def test_figures_count_slices_mistakes_and_what_is_left_above_a_threshold() -> None:
    def heard(text: str, label: str, condition: str) -> KeywordPrediction:
        return KeywordPrediction(SpeechFile("x.wav", b"", text, (f"condition: {condition}",)), label, 0.5)

    answers = [heard("yes", "yes", "clean"), heard("yes", "no", "noisy"), heard("no", "no", "clean")]
    answers += [heard("unknown", "no", "noisy"), heard("unknown", "unknown", "clean")]
    figures = measure_keywords(answers, ["no", "unknown", "yes"])
    numbers = version_metrics(figures)
    assert numbers["accuracy"] == pytest.approx(0.6)
    assert numbers["clean_accuracy"] == 1.0 and numbers["noisy_accuracy"] == 0.0
    assert numbers["unknown_recall"] == 0.5 and "silence_recall" not in numbers
    assert figures.labels["no"].precision == pytest.approx(1 / 3)
    assert figures.mistakes == (("unknown", "no", 1), ("yes", "no", 1))
    assert figures.class_mix == {"no": 0.6, "unknown": 0.2, "yes": 0.2}
    tables = keyword_tables(figures)
    assert "| everything | 5 | 60.00% |" in tables
    assert "| 0 | 100.00% | 66.67% | 50.00% |\n| 0.5 | 100.00% | 66.67% | 50.00% |\n| 0.7 | 0.00% |" in tables
    assert "unknown → no (1), yes → no (1)" in tables


def test_the_shipped_recipe_is_one_for_sounds_and_takes_a_users_table(table: Path, tmp_path: Path) -> None:
    recipe = load_recipe("keywords")
    own = recipe.changed(data=table, name="mine", seed=None)
    assert isinstance(own, KeywordsRecipe) and own.data.kind == "speech-table"
    assert isinstance(steps_for(own, tmp_path, silent_console(), ""), KeywordSteps)

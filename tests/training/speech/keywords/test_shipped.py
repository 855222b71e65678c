"""The shipped keywords model, asked as a client asks: from a sound file to the label."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import (
    MANIFEST_FILE,
    VERSION_FILE,
    GoldenCases,
    ModelManifest,
    VersionFacts,
    read,
)
from service.tasks import Limits
from service.tasks.audio.classification import AudioClassification, AudioClassificationParameters
from service.tasks.classification import Prediction
from training.core.card import metrics_of_card
from training.core.job import newest_version
from training.recipes.load import load_recipe
from training.speech.keywords.predict import answer_to
from training.speech.synthetic.spoken_words import LABELS

MODEL = Path(__file__).parents[4] / "models" / "keywords"
pytestmark = pytest.mark.skipif(newest_version(MODEL) is None, reason="the model is not in this checkout")

Answer = Callable[[bytes], Prediction]
Samples = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@pytest.fixture(scope="module")
def folder() -> Path:
    newest = newest_version(MODEL)
    assert newest is not None
    return newest


@pytest.fixture(scope="module")
def task(folder: Path) -> AudioClassification:
    return AudioClassification(folder, read(folder / VERSION_FILE, VersionFacts))


@pytest.fixture(scope="module")
def answer(folder: Path, task: AudioClassification) -> Answer:
    session = Session(folder / "model.onnx", Device("cpu"))
    return lambda file: answer_to(task, session.run, file, 1)["predictions"][0]


@pytest.fixture(scope="module")
def recordings(folder: Path) -> list[tuple[bytes, str, float]]:
    """The published files, and the label and the score that each gets."""
    cases = read(folder / "golden" / "golden.yaml", GoldenCases).cases
    return [
        ((folder / "golden" / case.file).read_bytes(), best["label"], best["score"])
        for case in cases
        for best in case.answer["predictions"][:1]  # type: ignore[index]
    ]


def saved(samples: Samples, rate: int, form: str) -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


def test_the_shipped_version_passes_its_golden_check(folder: Path, task: AudioClassification) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    run = Session(folder / facts.variants[0].file, Device("cpu")).run
    check_files(folder, facts)
    check_arrays(folder, facts.variants[0], task, run)
    check_cases(folder, task, run, Limits())


def test_the_shipped_manifest_is_the_recipes_and_the_folder_is_small(task: AudioClassification) -> None:
    assert read(MODEL / MANIFEST_FILE, ModelManifest) == load_recipe("keywords").manifest
    assert sorted(task.labels) == sorted(LABELS)
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 5_000_000


def test_the_shipped_figures_are_at_least_what_was_asked_for(folder: Path) -> None:
    metrics = read(folder / VERSION_FILE, VersionFacts).metrics
    assert metrics["held_out_items"] == 1776
    assert float(metrics["accuracy"]) >= 0.95


def test_the_card_names_the_figures_of_the_version(folder: Path) -> None:
    metrics = read(folder / VERSION_FILE, VersionFacts).metrics
    figures = metrics_of_card((MODEL / "README.md").read_text(encoding="utf-8"))
    for name in ("accuracy", "clean_accuracy", "noisy_accuracy", "telephone_accuracy"):
        assert f"{float(metrics[name]):.2%}" in figures


def test_silence_another_word_and_words_are_among_the_published_sounds(
    recordings: list[tuple[bytes, str, float]],
) -> None:
    labels = [label for _, label, _ in recordings]
    assert {"silence", "unknown"} < set(labels) and len(set(labels)) == len(labels) >= 6


def test_a_sound_gets_the_same_label_at_other_rates_in_stereo_and_quietly(
    answer: Answer, recordings: list[tuple[bytes, str, float]]
) -> None:
    for file, label, score in recordings:
        samples, rate = soundfile.read(BytesIO(file), dtype="float32")
        faster = np.asarray(soxr.resample(samples, rate, 44_100), dtype=np.float32)
        stereo = np.stack([samples * 0.8, samples * 0.2], axis=1)
        for other in (
            saved(faster, 44_100, "OGG"),
            saved(stereo, rate, "FLAC"),
            saved(samples * 0.2, rate, "WAV"),
            saved(samples, rate, "MP3"),
        ):
            best = answer(other)
            assert best["label"] == label
            assert best["score"] == pytest.approx(score, abs=0.02)


def test_nothing_and_faint_noise_are_silence(answer: Answer) -> None:
    assert answer(saved(np.zeros(16_000, dtype=np.float32), 16_000, "WAV"))["label"] == "silence"
    assert answer(saved(np.zeros(10, dtype=np.float32), 16_000, "WAV"))["label"] == "silence"
    noise = np.random.default_rng(0).normal(0, 0.003, 20_000).astype(np.float32)
    assert answer(saved(noise, 16_000, "WAV"))["label"] == "silence"


def test_a_sound_alone_gets_the_answer_it_gets_in_a_padded_batch(
    folder: Path, task: AudioClassification, recordings: list[tuple[bytes, str, float]]
) -> None:
    session = Session(folder / "model.onnx", Device("cpu"))
    decoded = [task.decode(file, Limits(), AudioClassificationParameters()) for file, _, _ in recordings]
    parts = [one.parts[0] for one in decoded]
    lengths = np.array([int(part["lengths"]) for part in parts], dtype=np.int64)
    audio = np.zeros((len(parts), int(lengths.max()) + 5000), dtype=np.float32)
    for row, part, length in zip(audio, parts, lengths.tolist(), strict=True):
        row[:length] = part["audio"]
    together = session.run({"audio": audio, "lengths": lengths})["probabilities"]
    for i, length in enumerate(lengths.tolist()):
        alone = session.run({"audio": audio[i : i + 1, :length], "lengths": lengths[i : i + 1]})
        np.testing.assert_allclose(alone["probabilities"][0], together[i], atol=1e-4)

"""The shipped spoken-commands model, asked as a client asks: from a sound file to the words."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile
import soxr

from service.engine.queue.batch import stack
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
from service.tasks import Limits, answer_one
from service.tasks.audio.speech_recognition import SpeechParameters, SpeechRecognition, Transcript
from training.core.card import metrics_of_card
from training.core.job import newest_version
from training.recipes.load import load_recipe
from training.speech.recognition.metrics import count_errors

MODEL = Path(__file__).parents[4] / "models" / "spoken-commands"
pytestmark = pytest.mark.skipif(newest_version(MODEL) is None, reason="the model is not in this checkout")

Answer = Callable[[bytes], Transcript]


@pytest.fixture(scope="module")
def folder() -> Path:
    newest = newest_version(MODEL)
    assert newest is not None
    return newest


@pytest.fixture(scope="module")
def task(folder: Path) -> SpeechRecognition:
    return SpeechRecognition(folder, read(folder / VERSION_FILE, VersionFacts))


@pytest.fixture(scope="module")
def answer(folder: Path, task: SpeechRecognition) -> Answer:
    session = Session(folder / "model.onnx", Device("cpu"))
    return lambda file: cast(Transcript, answer_one(task, session.run, file, Limits(), SpeechParameters()))


@pytest.fixture(scope="module")
def recordings(folder: Path) -> list[tuple[bytes, str]]:
    """The published files, and what is said in them."""
    cases = read(folder / "golden" / "golden.yaml", GoldenCases).cases
    return [((folder / "golden" / case.file).read_bytes(), str(case.answer["text"])) for case in cases]


def samples_of(file: bytes) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], int]:
    samples, rate = soundfile.read(BytesIO(file), dtype="float32")
    return samples, rate


def saved(samples: np.ndarray[tuple[int, ...], np.dtype[np.float32]], rate: int, form: str) -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


def test_the_shipped_version_passes_its_golden_check(folder: Path, task: SpeechRecognition) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    run = Session(folder / facts.variants[0].file, Device("cpu")).run
    check_files(folder, facts)
    check_arrays(folder, facts.variants[0], task, run)
    check_cases(folder, task, run, Limits())


def test_the_shipped_manifest_is_the_recipes_and_the_folder_is_small() -> None:
    assert read(MODEL / MANIFEST_FILE, ModelManifest) == load_recipe("spoken-commands").manifest
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 15_000_000


def test_the_shipped_figures_are_at_least_what_was_asked_for(folder: Path) -> None:
    metrics = read(folder / VERSION_FILE, VersionFacts).metrics
    assert metrics["held_out_items"] == 3000
    assert float(metrics["clean_word_error_rate"]) <= 0.08
    assert float(metrics["word_error_rate"]) <= 0.08


def test_the_card_names_the_figures_of_the_version(folder: Path) -> None:
    metrics = read(folder / VERSION_FILE, VersionFacts).metrics
    figures = metrics_of_card((MODEL / "README.md").read_text(encoding="utf-8"))
    for name in (
        "word_error_rate",
        "clean_word_error_rate",
        "noisy_word_error_rate",
        "greedy_word_error_rate",
    ):
        assert f"{float(metrics[name]):.2%}" in figures


def test_a_recording_says_the_same_at_other_rates_in_stereo_and_quietly(
    answer: Answer, recordings: list[tuple[bytes, str]]
) -> None:
    words = wrong = 0
    for file, text in recordings:
        samples, rate = samples_of(file)
        faster = np.asarray(soxr.resample(samples, rate, 44_100), dtype=np.float32)
        stereo = np.stack([samples * 0.8, samples * 0.1], axis=1)
        for other in (
            saved(faster, 44_100, "OGG"),
            saved(stereo, rate, "FLAC"),
            saved(samples * 0.1, rate, "WAV"),
        ):
            errors, _ = count_errors(text, answer(other)["text"])
            words, wrong = words + errors.words, wrong + errors.substituted + errors.missing + errors.added
    assert wrong <= 0.05 * words


def test_sentences_one_after_the_other_are_all_written_down_in_order_with_their_times(
    answer: Answer, recordings: list[tuple[bytes, str]]
) -> None:
    pieces: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    said: list[str] = []
    begins: list[float] = []
    seconds = 0.0
    for file, text in recordings * 3:
        samples, rate = samples_of(file)
        sound = np.asarray(soxr.resample(samples, rate, 16_000), dtype=np.float32)
        begins.append(seconds)
        said.append(text)
        pieces += [sound, np.zeros(9600, dtype=np.float32)]
        seconds += len(sound) / 16_000 + 0.6
    transcript = answer(saved(np.concatenate(pieces), 16_000, "FLAC"))
    errors, _ = count_errors(" ".join(said), transcript["text"])
    assert errors.missing == errors.added == 0
    assert errors.rate <= 0.05
    first_words = np.cumsum([0, *(len(text.split()) for text in said)])[:-1]
    for begin, end, place in zip(begins, [*begins[1:], seconds], first_words.tolist(), strict=True):
        assert begin <= transcript["words"][place]["start"] < end


def test_silence_and_noise_are_no_error(answer: Answer) -> None:
    assert answer(saved(np.zeros(16_000, dtype=np.float32), 16_000, "WAV"))["text"] == ""
    noise = np.random.default_rng(0).normal(0, 0.02, 48_000).astype(np.float32)
    assert len(answer(saved(noise, 16_000, "WAV"))["text"].split()) <= 2


def test_a_recording_alone_gets_the_answer_it_gets_in_a_padded_batch(
    folder: Path, task: SpeechRecognition, answer: Answer, recordings: list[tuple[bytes, str]]
) -> None:
    run = Session(folder / "model.onnx", Device("cpu")).run
    sounds = [np.asarray(soxr.resample(*samples_of(file), 16_000), np.float32) for file, _ in recordings]
    # From the shortest that the graph takes to the longest.
    cut = [sounds[0][:2000], np.concatenate(sounds), np.concatenate(sounds * 2), np.concatenate(sounds * 3)]
    files = [saved(sound[: 20 * 16_000], 16_000, "FLAC") for sound in [*sounds, *cut]]
    decoded = [task.decode(file, Limits(), SpeechParameters()) for file in files]
    assert all(len(item.parts) == 1 for item in decoded)
    assert max(item.costs[0] for item in decoded) > 100 * min(item.costs[0] for item in decoded)
    together = run(stack([item.parts[0] for item in decoded]))
    for row, (item, file) in enumerate(zip(decoded, files, strict=True)):
        alone = run(stack(item.parts))
        count = int(alone["frames"][0])
        assert together["frames"][row] == count
        np.testing.assert_allclose(
            together["log_probs"][row, :count], alone["log_probs"][0, :count], atol=1e-3
        )
        outputs = {name: output[row] for name, output in together.items()}
        assert task.agrees(answer(file), task.answer([outputs], item, SpeechParameters()), 1e-3) is None

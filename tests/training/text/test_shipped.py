"""The shipped text models, asked as a client asks: from a text to the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import MANIFEST_FILE, VERSION_FILE, ModelManifest, VersionFacts, read
from service.tasks import TASKS, Limits, answer_one
from training.core.card import metrics_of_card
from training.core.job import newest_version
from training.recipes.load import RECIPES_FOLDER, load_recipe
from training.text.embedding.metrics import embed, ranks_of
from training.text.predict import answer_texts

MODELS = Path(__file__).parents[3] / "models"
NAMES = ("languages", "descriptions")
MOST_BYTES = 6_500_000  # of a model's folder

QUESTIONS = {
    "program that shows pictures and lets you crop them": (
        "A light viewer for photographs. Images can be rotated, cropped and sorted and shown full screen."
    ),
    "compress files from the command line": (
        "This tool makes files smaller with a fast algorithm. It reads from a pipe or a list of files."
    ),
    "chess against the computer": (
        "Play the game of kings on a board with depth. The engine has ten levels and an opening book."
    ),
    "driver for laser printers": (
        "Lets the print server talk to laser printers of several makers, with settings for paper and toner."
    ),
    "fonts with Arabic letters": (
        "A family of typefaces that covers the Arabic script in three weights, with all vowel marks."
    ),
}
ODD_TEXTS = ("a", "\0", "🙂", "e\u0301", "שלום", "[PAD]", "a" * 4000, "\u202eab", "1234")


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    newest = newest_version(MODELS / str(request.param))
    assert newest is not None
    return newest


def metrics_of(name: str) -> Mapping[str, float | str]:
    newest = newest_version(MODELS / name)
    assert newest is not None
    return read(newest / VERSION_FILE, VersionFacts).metrics


def test_the_shipped_version_passes_its_golden_check(folder: Path) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = TASKS[read(folder.parent / MANIFEST_FILE, ModelManifest).task](folder, facts)
    run = Session(folder / facts.variants[0].file, Device("cpu")).run
    check_files(folder, facts)
    check_arrays(folder, facts.variants[0], task, run)
    check_cases(folder, task, run, Limits())


def test_the_shipped_manifest_is_the_recipes_and_the_folder_is_small(folder: Path) -> None:
    manifest = read(folder.parent / MANIFEST_FILE, ModelManifest)
    assert manifest == load_recipe(manifest.name).manifest
    assert sum(path.stat().st_size for path in folder.parent.rglob("*") if path.is_file()) < MOST_BYTES


def test_the_card_names_the_figures_of_the_version() -> None:
    card = metrics_of_card((MODELS / "languages" / "README.md").read_text(encoding="utf-8"))
    metrics = metrics_of("languages")
    shown = [float(number) / 100 for number in re.findall(r"(\d+\.\d+)%", card)]
    assert min(abs(number - float(metrics["accuracy"])) for number in shown) <= 1e-4
    for name in ("window20_accuracy", "window20_coverage"):
        assert f"{float(metrics[name]):.2%}" in card
    card = metrics_of_card((MODELS / "descriptions" / "README.md").read_text(encoding="utf-8"))
    metrics = metrics_of("descriptions")
    for name in ("recall_at_1", "recall_at_10", "recall_at_1_first64", "char_tfidf_recall_at_1"):
        assert f"{float(metrics[name]):.3f}" in card


def test_the_shipped_figures_are_at_least_what_was_asked_for() -> None:
    languages, descriptions = metrics_of("languages"), metrics_of("descriptions")
    assert float(languages["accuracy"]) >= 0.995
    assert float(languages["window20_accuracy"]) >= 0.95
    assert float(languages["window20_coverage"]) >= 0.90
    best = max(float(descriptions[f"{kind}_tfidf_recall_at_1"]) for kind in ("word", "char"))
    assert float(descriptions["recall_at_1"]) >= best + 0.10
    assert descriptions["held_out_items"] == 5000


def test_everyday_sentences_get_their_language() -> None:
    folder = newest_version(MODELS / "languages")
    assert folder is not None
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = TASKS["text-classification"](folder, facts)
    run = Session(folder / facts.variants[0].file, Device("cpu")).run
    lines = (RECIPES_FOLDER / "languages-everyday.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["label"] != "unknown"]
    results = answer_texts(task, run, [row["text"] for row in rows], task.parameters())
    wrong = [
        row["text"]
        for row, result in zip(rows, results, strict=True)
        if result["predictions"][0]["label"] != row["label"]  # type: ignore[index]
    ]
    assert {row["label"] for row in rows} == set(task.labels)
    assert not wrong


@pytest.mark.parametrize(
    "text", ["a", "\0", "🙂", "e\u0301", "שלום", "[PAD]", "a" * 4000, "\u202eab", "1234"]
)
def test_odd_texts_are_answered(folder: Path, text: str) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = TASKS[read(folder.parent / MANIFEST_FILE, ModelManifest).task](folder, facts)
    run = Session(folder / facts.variants[0].file, Device("cpu")).run
    parameters = task.parameters(truncate=True)
    result = answer_one(task, run, text, Limits(), parameters)
    numbers = re.findall(r"-?\d\.\d+", str(result)) or np.ravel(result["embedding"]).tolist()  # type: ignore[call-overload]
    assert np.isfinite([float(number) for number in numbers]).all()


@pytest.mark.parametrize(("size", "worst_rank"), [(1024, 0), (256, 0), (64, 1)])
def test_questions_find_texts_that_answer_them(size: int, worst_rank: int) -> None:
    folder = newest_version(MODELS / "descriptions")
    assert folder is not None
    facts = read(folder / VERSION_FILE, VersionFacts)
    vectors = embed(folder, facts, [*QUESTIONS, *QUESTIONS.values()])[:, :size]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert ranks_of(vectors[: len(QUESTIONS)], vectors[len(QUESTIONS) :]).max() <= worst_rank

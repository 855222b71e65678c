"""Small tables of texts, networks trained on them and their exported models, made once a session."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from service.repository.manifest import ModelManifest, TextInput
from training.core.job import Job, RecipeKind
from training.core.version_folder import Destination
from training.recipes.recipe import Optimisation, Split
from training.recipes.text_recipe import (
    ByteNetworkSize,
    Contrast,
    TextClassificationRecipe,
    TextEmbeddingRecipe,
    TextEncoderSize,
    TextPairsData,
    TextTableData,
    Windows,
)
from training.text.classification.steps import TextClassificationSteps
from training.text.embedding.steps import TextEmbeddingSteps

WORDS = {
    "de": "und nicht auch wieder schön über Straße können möchte jetzt heute Haus Wetter sprechen ganz",
    "en": "the and with where this house weather speak quite would could should today again street",
    "pl": "oraz nie także znowu piękny ulica może chciałbym teraz dzisiaj dom pogoda mówić całkiem jest",
}
NUMBERS = "12 7 305 99 0.5 18:30 2026 4711"
THINGS = ("apple", "bridge", "candle", "desk", "engine", "flute", "garden", "hammer", "island", "jacket")
QUALITIES = (
    "red",
    "old",
    "tiny",
    "loud",
    "warm",
    "heavy",
    "round",
    "sweet",
    "broken",
    "quick",
    "green",
    "new",
)


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def sentence(words: str, random: np.random.Generator, length: int) -> str:
    return " ".join(random.choice(words.split(), length).tolist())


@pytest.fixture(scope="session")
def label_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    languages: Mapping[str, str] = {**WORDS, "unknown": NUMBERS}
    rows = [
        {"text": sentence(words, random, int(random.integers(4, 16))), "label": label, "group": str(n // 2)}
        for label, words in languages.items()
        for n in range(120)
    ]
    return write_lines(tmp_path_factory.mktemp("texts") / "words.jsonl", rows)


@pytest.fixture(scope="session")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    rows = []
    for thing in THINGS:
        for quality in QUALITIES:
            words = sentence(WORDS["en"], random, 8)
            document = f"{words}. This {thing} is {quality}. {sentence(WORDS['en'], random, 12)}."
            rows.append({"query": f"{quality} {thing}", "document": document, "group": f"{thing}{quality}"})
    return write_lines(tmp_path_factory.mktemp("texts") / "things.jsonl", rows)


def label_recipe(path: Path, **optimisation: float) -> TextClassificationRecipe:
    wanted = {"epochs": 3, "passes": 4, "batch_size": 16, "learning_rate": 0.01, **optimisation}
    return TextClassificationRecipe(
        manifest=ModelManifest(name="words", task="text-classification", required=False),
        data=TextTableData(path=path, group="group", unknown="unknown"),
        input=TextInput(max_tokens=200),
        split=Split(test=0.2, validation=0.2, seed=1),
        windows=Windows(shortest=4, longest=40, whole=0.3, longest_whole=80, measured=10, right=0.9),
        network=ByteNetworkSize(buckets=(64, 64), width=8, channels=8, kernel=3, dropout=0.0),
        optimisation=Optimisation.model_validate(wanted),
    )


def pair_recipe(path: Path, **optimisation: float) -> TextEmbeddingRecipe:
    wanted = {"epochs": 3, "batch_size": 32, "learning_rate": 0.01, "weight_decay": 0.0, **optimisation}
    return TextEmbeddingRecipe(
        manifest=ModelManifest(name="things", task="text-embedding", required=False),
        data=TextPairsData(path=path, group="group"),
        input=TextInput(max_tokens=64),
        split=Split(test=0.25, validation=0.3, seed=1),
        network=TextEncoderSize(vocabulary=400, width=8, heads=2, dimensions=32, prefixes=(8,)),
        contrast=Contrast(query_tokens=16, document_tokens=48),
        optimisation=Optimisation.model_validate(wanted),
        candidates=20,
    )


def job_in(folder: Path, recipe: RecipeKind) -> Job[RecipeKind]:
    """A job that writes what it says into memory."""
    console = Console(file=io.StringIO(), width=300)
    return Job(recipe, folder / "runs", console, f"kotae-train build {recipe.name}.yaml")


def said_by(job: Job[RecipeKind]) -> str:
    """What a job of `job_in` has said."""
    assert isinstance(job.console.file, io.StringIO)
    return job.console.file.getvalue()


@dataclass(frozen=True)
class Shipped:
    """A version's folder, and the one that holds models and runs."""

    version: Path
    folder: Path


@pytest.fixture(scope="session")
def words_model(label_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """A text classifier; not to be changed."""
    folder = tmp_path_factory.mktemp("words")
    job = job_in(folder, label_recipe(label_file))
    TextClassificationSteps(job).build(Destination(folder / "models"))
    return Shipped(folder / "models" / "words" / "1", folder)


@pytest.fixture(scope="session")
def things_model(pair_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """A text encoder; not to be changed."""
    folder = tmp_path_factory.mktemp("things")
    job = job_in(folder, pair_recipe(pair_file))
    TextEmbeddingSteps(job).build(Destination(folder / "models"))
    return Shipped(folder / "models" / "things" / "1", folder)

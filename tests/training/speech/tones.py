"""A small table of recordings whose words are tones, and a recipe that learns them within seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from service.repository.manifest import AudioInput, ModelManifest
from training.recipes.recipe import Optimisation, Split
from training.recipes.speech_recipe import SpeechEncoderSize, SpeechRecipe, SpeechTableData, WordSearch

RATE = 8000
WORDS = {"do": 250.0, "mi": 800.0, "so": 2400.0}  # hertz


def melody(words: list[str], random: np.random.Generator) -> NDArray[np.int16]:
    """Play words, a tone each, with short pauses."""
    pieces = [np.zeros(RATE // 10)]
    for word in words:
        time = np.arange(int(random.uniform(0.18, 0.26) * RATE)) / RATE
        pieces += [np.sin(2 * np.pi * WORDS[word] * time) * np.hanning(len(time)) ** 0.3, np.zeros(RATE // 8)]
    sound = np.concatenate(pieces) * random.uniform(5000, 20000) + random.normal(0, 30, sum(map(len, pieces)))
    return sound.astype(np.int16)


def write_melodies(folder: Path, count: int = 160) -> Path:
    """Write sound files and a table of them; returns the table."""
    random = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "melodies.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["audio", "text", "player"])
        for number in range(count):
            words = random.choice(list(WORDS), int(random.integers(1, 4))).tolist()
            name = f"{number:03d}.{'flac' if number % 2 else 'wav'}"
            soundfile.write(folder / name, melody(words, random), RATE)
            table.writerow([name, " ".join(words).upper() + ".", f"player {number // 4}"])
    return path


def tiny_speech_recipe(table: Path, search: WordSearch | None = None, **optimisation: float) -> SpeechRecipe:
    """A recipe that trains in a few seconds."""
    wanted = {"epochs": 6, "least_steps": 50, "learning_rate": 8e-3, "weight_decay": 0.0, **optimisation}
    return SpeechRecipe(
        manifest=ModelManifest(name="melodies", task="speech-recognition", required=False),
        data=SpeechTableData(path=table, group="player"),
        input=AudioInput(sample_rate=RATE, max_seconds=5),
        split=Split(test=0.15, validation=0.15, seed=1),
        network=SpeechEncoderSize(
            mels=16, hop_seconds=0.016, width=24, blocks=2, heads=2, kernel=5, expansion=2, dropout=0.0
        ),
        batch_seconds=12,
        search=search or WordSearch(order=2, beam_size=16),
        optimisation=Optimisation.model_validate(wanted),
    )

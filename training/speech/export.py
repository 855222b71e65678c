"""Graphs that take sounds: exported, compared with PyTorch, and kept from changing by golden arrays.

Letters in shapes: `N` batch, `T` samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.engine.runtime.session import Device, Session
from service.repository.golden import write_golden_arrays
from service.repository.manifest import TaskName
from service.tasks import TASKS
from training.core.export import EXPORT_BATCH, PARITY_BATCHES, write_graph
from training.core.version_folder import GRAPH_FILE
from training.recipes.speech_recipes import KeywordsRecipe, SpeechRecipe
from training.speech.dataset import SpokenFile
from training.speech.decoding import decoded

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
Compare = Callable[[Arrays, Arrays, str], float]
_EXPORT_SECONDS = 1.0
_EXTRA_SECONDS = (0.0, 0.37, 1.1)  # of nothing but padding, one number a parity batch
_REAL_SOUNDS = 2  # in the golden arrays
_GOLDEN_SECONDS = 1.5


def write_sound_graph(
    folder: Path,
    network: nn.Module,
    recipe: SpeechRecipe | KeywordsRecipe,
    files: Sequence[SpokenFile],
    compare: Compare,
) -> Run:
    """Write a version's graph and golden arrays.

    Args:
        folder: The version's folder.
        network: In evaluation mode; takes `audio` f32 [N, T] and `lengths` i64 [N].
        recipe: Its task's class names inputs and outputs.
        files: Of the validation part, of which some are compared on.
        compare: As for `check_sound_parity`.

    Returns:
        The exported graph, ready to run.

    Raises:
        ExportFailed: It does not answer as PyTorch does.
    """
    task, rate = recipe.manifest.task, recipe.input.sample_rate
    sounds = [decoded(file.content, recipe.input) for file in files[: max(PARITY_BATCHES)]]
    _export(network, task, round(_EXPORT_SECONDS * rate), folder / GRAPH_FILE)
    run = Session(folder / GRAPH_FILE, Device("cpu")).run
    by_torch = run_by_torch(network, task)
    check_sound_parity(by_torch, run, sounds, rate, compare)
    arrays = golden_arrays(sorted(sounds, key=len)[:_REAL_SOUNDS], rate)
    write_golden_arrays(folder, arrays, by_torch(arrays))
    return run


def run_by_torch(network: nn.Module, task: TaskName) -> Run:
    """Run PyTorch in place of the exported graph.

    Args:
        network: In evaluation mode.
        task: Whose class names inputs and outputs.
    """
    names = TASKS[task]

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            given = network(*(torch.from_numpy(inputs[name]) for name in names.inputs))
        outputs = given if isinstance(given, tuple) else (given,)
        return {name: output.numpy() for name, output in zip(names.outputs, outputs, strict=True)}

    return run


def check_sound_parity(
    by_torch: Run, run: Run, sounds: Sequence[NDArray[np.int16]], sample_rate: int, compare: Compare
) -> float:
    """Compare ONNX Runtime with PyTorch at several batch sizes and lengths, none the exporting ones.

    Args:
        by_torch: PyTorch.
        run: The exported graph.
        sounds: i16 [T] each, taken round and round for larger batches.
        sample_rate: Samples a second.
        compare: Takes what PyTorch gives, what the graph gives, and the batch's name for a message; returns
            the largest absolute difference.

    Returns:
        The largest of all differences.

    Raises:
        ExportFailed: `compare` says so.
    """
    worst = 0.0
    for size, extra in zip(PARITY_BATCHES, _EXTRA_SECONDS, strict=True):
        rows = [sounds[place % len(sounds)] for place in range(size)]
        inputs = stacked(rows, padding=round(extra * sample_rate))
        worst = max(worst, compare(by_torch(inputs), run(inputs), f"a batch of {size}"))
    return worst


def golden_arrays(sounds: Sequence[NDArray[np.int16]], sample_rate: int) -> Arrays:
    """Put sounds that nobody sends beside pieces of real ones.

    Args:
        sounds: i16 [T] each.
        sample_rate: Samples a second.

    Returns:
        `audio` f32 [N, T] and `lengths` i64 [N]: real ones, silence, full scale, a tone, one sample.
    """
    most = round(_GOLDEN_SECONDS * sample_rate)
    tone = np.sin(2 * np.pi * 440 * np.arange(most // 3) / sample_rate) * 8000
    rows = [sound[:most] for sound in sounds]
    rows += [
        np.zeros(most // 2, dtype=np.int16),
        np.full(most // 4, 32767, dtype=np.int16),
        tone.astype(np.int16),
        np.array([-32768], dtype=np.int16),
    ]
    return stacked(rows)


def stacked(sounds: Sequence[NDArray[np.int16]], padding: int = 0) -> Arrays:
    """Put sounds side by side as the service does: `audio` f32 [N, T + padding] and `lengths` i64 [N]."""
    lengths = np.array([len(sound) for sound in sounds], dtype=np.int64)
    audio = np.zeros((len(sounds), int(lengths.max()) + padding), dtype=np.float32)
    for row, sound in zip(audio, sounds, strict=True):
        row[: len(sound)] = sound * np.float32(1 / 32768)
    return {"audio": audio, "lengths": lengths}


def _export(network: nn.Module, task: TaskName, samples: int, path: Path) -> None:
    """Write the whole network, samples to answers, as one ONNX file with both axes dynamic."""
    examples = (torch.zeros(EXPORT_BATCH, samples), torch.full((EXPORT_BATCH,), samples))
    items, length = torch.export.Dim("N", min=1), torch.export.Dim("T", min=1)
    write_graph(network, task, examples, ({0: items, 1: length}, {0: items}), path)

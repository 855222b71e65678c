"""Inputs for the export of a network over sounds.

Letters in shapes: `N` batch, `T` samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from service.repository.manifest import AudioInput
from training.core.export import EXPORT_BATCH, PARITY_BATCHES, Arrays, ExportInputs
from training.speech.dataset import SpeechFile
from training.speech.decoding import decode_sound

_EXPORT_SECONDS = 1.0
_EXTRA_SECONDS = (0.0, 0.37, 1.1)  # of padding, one number per parity batch
_REAL_SOUNDS = 2  # in the golden arrays
_GOLDEN_SECONDS = 1.5


def export_inputs(files: Sequence[SpeechFile], spec: AudioInput) -> ExportInputs:
    """Return inputs for a network that takes `audio` f32 [N, T] and `lengths` i64 [N].

    Args:
        files: The validation part, of which some files are used.
        spec: The graph's input.
    """
    rate, samples = spec.sample_rate, round(_EXPORT_SECONDS * spec.sample_rate)
    sounds = [decode_sound(file.content, spec) for file in files[: max(PARITY_BATCHES)]]
    items, length = torch.export.Dim("N", min=1), torch.export.Dim("T", min=1)
    return ExportInputs(
        (torch.zeros(EXPORT_BATCH, samples), torch.full((EXPORT_BATCH,), samples)),
        ({0: items, 1: length}, {0: items}),
        parity_batches(sounds, rate),
        golden_arrays(sorted(sounds, key=len)[:_REAL_SOUNDS], rate),
    )


def parity_batches(sounds: Sequence[NDArray[np.int16]], sample_rate: int) -> list[tuple[str, Arrays]]:
    """Return named batches of several sizes and lengths.

    Args:
        sounds: i16 [T] each; repeated for larger batches.
        sample_rate: Samples per second.
    """
    return [
        (
            f"a batch of {size}",
            stack_sounds(
                [sounds[place % len(sounds)] for place in range(size)], padding=round(extra * sample_rate)
            ),
        )
        for size, extra in zip(PARITY_BATCHES, _EXTRA_SECONDS, strict=True)
    ]


def golden_arrays(sounds: Sequence[NDArray[np.int16]], sample_rate: int) -> Arrays:
    """Return parts of real sounds and synthetic extremes as one batch.

    Args:
        sounds: i16 [T] each.
        sample_rate: Samples per second.

    Returns:
        `audio` f32 [N, T] and `lengths` i64 [N]: real sounds, silence, full scale, a tone, one sample.
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
    return stack_sounds(rows)


def stack_sounds(sounds: Sequence[NDArray[np.int16]], padding: int = 0) -> Arrays:
    """Return a batch as the service makes it: `audio` f32 [N, T + padding] and `lengths` i64 [N]."""
    lengths = np.array([len(sound) for sound in sounds], dtype=np.int64)
    audio = np.zeros((len(sounds), int(lengths.max()) + padding), dtype=np.float32)
    for row, sound in zip(audio, sounds, strict=True):
        row[: len(sound)] = sound * np.float32(1 / 32768)
    return {"audio": audio, "lengths": lengths}

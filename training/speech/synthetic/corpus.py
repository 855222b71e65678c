"""Spoken utterances kept in a folder: spoken once, then read as a memory-mapped file.

The folder is named for everything that the sound depends on. Speaking can be cut off at any time: what
was spoken is kept, part by part, and the index is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.speech.dataset import SpokenSet
from training.speech.synthetic import synthesis
from training.speech.synthetic.synthesis import Order, speak

_PART = 1200  # utterances a file while speaking goes on

Placed = Callable[[int, NDArray[np.int16]], NDArray[np.int16]]


def corpus_folder(cache: Path, name: str, orders: Sequence[Order], sample_rate: int) -> Path:
    """Name the folder of what is spoken by these orders at this rate."""
    told = hashlib.sha256(f"{synthesis.VERSION} {sample_rate}\n".encode())
    for order in orders:
        told.update(f"{order.voice} {order.manner} {order.text}\n".encode())
    return cache / f"{name}-{told.hexdigest()[:16]}"


def spoken_corpus(
    folder: Path,
    orders: Sequence[Order],
    texts: Sequence[str],
    sample_rate: int,
    placed: Placed | None = None,
) -> SpokenSet:
    """Read a folder's utterances, and speak first what is not there yet.

    Args:
        folder: As `corpus_folder` names it.
        orders: N sentences to be spoken.
        texts: Their N transcripts or labels.
        sample_rate: Samples a second.
        placed: Makes the final utterance of a number out of what was spoken; as spoken if None.
    """
    index = folder / "index.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for start in range(0, len(orders), _PART):
            part = folder / f"part-{start:07d}.npz"
            if not part.is_file():
                spoken = speak(orders[start : start + _PART], sample_rate)
                if placed:
                    spoken = [placed(start + number, samples) for number, samples in enumerate(spoken)]
                _write_part(part, spoken)
            parts.append(part)
        _join(folder, parts)
        content = {"texts": list(texts), "voices": [str(order.voice) for order in orders]}
        index.write_text(json.dumps(content), encoding="utf-8")
        for part in parts:
            part.unlink()
    content = json.loads(index.read_text(encoding="utf-8"))
    return SpokenSet(
        np.load(folder / "samples.npy", mmap_mode="r"),
        np.load(folder / "offsets.npy"),
        content["texts"],
        content["voices"],
    )


def _write_part(part: Path, spoken: Sequence[NDArray[np.int16]]) -> None:
    unfinished = part.with_name(f"unfinished-{part.name}")
    lengths = np.array([len(samples) for samples in spoken], dtype=np.int64)
    np.savez(unfinished, samples=np.concatenate(spoken), lengths=lengths)
    unfinished.replace(part)


def _join(folder: Path, parts: Sequence[Path]) -> None:
    lengths = np.concatenate([np.load(part)["lengths"] for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    path, shape = folder / "samples.npy", (int(offsets[-1]),)
    samples = np.lib.format.open_memmap(path, mode="w+", dtype=np.int16, shape=shape)
    start = 0
    for part in parts:
        piece = np.load(part)["samples"]
        samples[start : start + len(piece)] = piece
        start += len(piece)
    samples.flush()
    np.save(folder / "offsets.npy", offsets)

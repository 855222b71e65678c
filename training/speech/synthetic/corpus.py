"""Synthesized utterances in a folder: synthesized once, then read as a memory-mapped file.

The folder's name is a hash of everything that the sound depends on. An interrupted synthesis continues: the
utterances are stored in parts, and the index is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.speech.dataset import SpeechTrainingSet
from training.speech.synthetic import synthesis
from training.speech.synthetic.synthesis import SpeechRequest, synthesize

_PART = 1200  # utterances per file during the synthesis

Finish = Callable[[int, NDArray[np.int16]], NDArray[np.int16]]


def corpus_folder(cache: Path, name: str, requests: Sequence[SpeechRequest], sample_rate: int) -> Path:
    """Return the folder of these requests at this sample rate."""
    key = hashlib.sha256(f"{synthesis.VERSION} {sample_rate}\n".encode())
    for request in requests:
        fields = ", ".join(f"{name}={value!r}" for name, value in asdict(request.prosody).items())
        # The word Manner keeps the names of folders that exist.
        key.update(f"{request.voice} Manner({fields}) {request.text}\n".encode())
    return cache / f"{name}-{key.hexdigest()[:16]}"


def synthesize_corpus(
    folder: Path,
    requests: Sequence[SpeechRequest],
    texts: Sequence[str],
    sample_rate: int,
    finish: Finish | None = None,
) -> SpeechTrainingSet:
    """Return a folder's utterances; synthesize missing ones first.

    Args:
        folder: The folder, from `corpus_folder`.
        requests: N sentences with voice and prosody.
        texts: Their N transcripts or labels.
        sample_rate: Samples per second.
        finish: Makes the final utterance from its number and the synthesized samples; None keeps them.
    """
    index = folder / "index.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for start in range(0, len(requests), _PART):
            part = folder / f"part-{start:07d}.npz"
            if not part.is_file():
                spoken = synthesize(requests[start : start + _PART], sample_rate)
                if finish:
                    spoken = [finish(start + number, samples) for number, samples in enumerate(spoken)]
                _write_part(part, spoken)
            parts.append(part)
        _join(folder, parts)
        content = {"texts": list(texts), "voices": [str(request.voice) for request in requests]}
        index.write_text(json.dumps(content), encoding="utf-8")
        for part in parts:
            part.unlink()
    content = json.loads(index.read_text(encoding="utf-8"))
    return SpeechTrainingSet(
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

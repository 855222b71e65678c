"""Golden cases: a few raw files and the answers that PyTorch gives for them.

The service answers them before a version may go live: they see what arrays cannot, such as
swapped labels or another way to resize.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.repository.manifest import GoldenCase
from service.tasks.classification import classify
from training.data.split import Indices
from training.errors import ExportFailed
from training.images.learner import Learner
from training.images.metrics import held_out, probabilities_of
from training.images.source import PictureSource, decode_files

_SEED = 3_000_017  # redrawings published with the model; no evaluation has this seed
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg"}
_LARGEST_BYTES = 40_000  # a model folder is kept in a repository
_TOP = 3
_PLAIN, _REDRAWN = 4, 8


@dataclass(frozen=True, slots=True)
class GoldenFile:
    """A raw file to publish with the model.

    Attributes:
        name: File name; tells the label.
        file: The bytes.
        image: u8 [H, W, C], what the service makes of the file.
    """

    name: str
    file: bytes
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Candidate:
    file: bytes
    label: int
    kind: tuple[object, ...]


def choose_golden_files(
    learner: Learner, source: PictureSource, validation: Indices
) -> tuple[GoldenFile, ...]:
    """Choose small, rightly and surely answered files that look as different as possible.

    Args:
        learner: The trained network.
        source: The pictures.
        validation: Indices to choose from; the test part stays unseen.

    Raises:
        ExportFailed: The network answers no file of the validation part rightly.
    """
    pictures = held_out(source, validation, _SEED)
    labels = pictures.labels.tolist()
    plain = [_Candidate(file, label, (label,)) for file, label in zip(pictures.files, labels, strict=True)]
    redrawn = [
        _Candidate(file, label, (look.dark_on_light, look.quality is None, look.height >= 100))
        for file, label, look in zip(
            pictures.redrawn, pictures.redrawn_labels.tolist(), pictures.looks, strict=True
        )
    ]
    chosen = _surest_of_each_kind(learner, plain)[: _PLAIN if redrawn else _PLAIN + _REDRAWN]
    if redrawn:
        chosen += _surest_of_each_kind(learner, redrawn)[:_REDRAWN]
    if not chosen:
        raise ExportFailed(
            "the network answers no validation picture rightly: train it first. Nothing was written"
        )
    images = decode_files([candidate.file for candidate in chosen], learner.recipe.input)
    return tuple(
        GoldenFile(_file_name(number, candidate, learner.classes), candidate.file, image)
        for number, (candidate, image) in enumerate(zip(chosen, images, strict=True), start=1)
    )


def _surest_of_each_kind(learner: Learner, candidates: list[_Candidate]) -> list[_Candidate]:
    """Take the surest right answer of each kind, a label not taken before if there is one."""
    images = decode_files([candidate.file for candidate in candidates], learner.recipe.input)
    probabilities = probabilities_of(learner, images)
    right = [i for i, candidate in enumerate(candidates) if probabilities[i].argmax() == candidate.label]
    small = [i for i in right if len(candidates[i].file) <= _LARGEST_BYTES] or right
    surest_first = sorted(small, key=lambda i: -float(probabilities[i].max()))
    chosen: dict[tuple[object, ...], _Candidate] = {}
    labels: set[int] = set()
    for fresh_label_only in (True, False):
        for candidate in (candidates[i] for i in surest_first):
            if candidate.kind in chosen or (fresh_label_only and candidate.label in labels):
                continue
            chosen[candidate.kind] = candidate
            labels.add(candidate.label)
    return list(chosen.values())


def _file_name(number: int, candidate: _Candidate, classes: tuple[str, ...]) -> str:
    label = re.sub(r"[^A-Za-z0-9]+", "-", classes[candidate.label]).strip("-") or str(candidate.label)
    with Image.open(BytesIO(candidate.file)) as picture:
        suffix = _SUFFIXES.get(picture.format or "", (picture.format or "bin").lower())
    return f"{number:02d}-{label}.{suffix}"


def golden_cases(learner: Learner, files: tuple[GoldenFile, ...]) -> list[tuple[GoldenCase, bytes]]:
    """Write down what PyTorch answers for each file."""
    probabilities = probabilities_of(learner, np.stack([golden.image for golden in files]))
    return [
        (GoldenCase(file=golden.name, answer=dict(classify(row, learner.classes, _TOP))), golden.file)
        for golden, row in zip(files, probabilities, strict=True)
    ]

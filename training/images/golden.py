"""Golden cases: a few raw files and the answers that PyTorch gives for them.

The service answers them before a version goes live. They show errors that golden arrays cannot show, such as
swapped labels or another way to resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.repository.manifest import GoldenCase
from service.tasks.classification import classify
from training.core.golden import choose_diverse, golden_name, small_files
from training.data.split import Indices
from training.errors import ExportFailed
from training.images.learner import ImageLearner
from training.images.predict import held_out, probabilities_of
from training.images.source import ImageSource, decode_files

_SEED = 3_000_017  # seed of the redrawn images that are published with the model; no evaluation uses it
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg"}
_LARGEST_BYTES = 40_000
_TOP = 3
_PLAIN, _REDRAWN = 4, 8


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """A golden case.

    Attributes:
        case: The answer to the file.
        file: The raw file.
        image: u8 [H, W, C], the decoded file.
    """

    case: GoldenCase
    file: bytes
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Candidate:
    file: bytes
    label: int
    kind: tuple[object, ...]


def choose_golden_images(
    learner: ImageLearner, source: ImageSource, validation: Indices
) -> tuple[GoldenImage, ...]:
    """Choose small files of different looks that the network answers rightly with high scores.

    Args:
        learner: The trained network.
        source: The images.
        validation: Indices of the validation part.

    Raises:
        ExportFailed: The network answers no file of the validation part rightly.
    """
    images = held_out(source, validation, _SEED)
    labels = images.labels.tolist()
    plain = [_Candidate(file, label, (label,)) for file, label in zip(images.files, labels, strict=True)]
    redrawn = [
        _Candidate(file, label, (look.dark_on_light, look.quality is None, look.height >= 100))
        for file, label, look in zip(
            images.redrawn, images.redrawn_labels.tolist(), images.looks, strict=True
        )
    ]
    chosen = _best_of_each_kind(learner, plain)[: _PLAIN if redrawn else _PLAIN + _REDRAWN]
    if redrawn:
        chosen += _best_of_each_kind(learner, redrawn)[:_REDRAWN]
    if not chosen:
        raise ExportFailed(
            "the network answers no validation picture rightly: train it first. Nothing was written"
        )
    decoded = decode_files([candidate.file for candidate in chosen], learner.recipe.input)
    rows = zip(chosen, decoded, probabilities_of(learner, decoded), strict=True)
    return tuple(
        GoldenImage(
            GoldenCase(
                file=golden_name(
                    number, learner.labels[one.label], _suffix(one.file), default=str(one.label)
                ),
                answer=dict(classify(row, learner.labels, _TOP)),
            ),
            one.file,
            image,
        )
        for number, (one, image, row) in enumerate(rows, start=1)
    )


def _best_of_each_kind(learner: ImageLearner, candidates: list[_Candidate]) -> list[_Candidate]:
    """Return the right answer with the highest score of each kind, preferably of different labels."""
    images = decode_files([candidate.file for candidate in candidates], learner.recipe.input)
    rows = zip(candidates, probabilities_of(learner, images), strict=True)
    right = [(float(row.max()), one) for one, row in rows if row.argmax() == one.label]
    small = small_files(right, lambda pair: pair[1].file, _LARGEST_BYTES)
    ranked = [one for _, one in sorted(small, key=lambda pair: -pair[0])]
    return choose_diverse(ranked, lambda one: one.kind, lambda one: one.label)


def _suffix(file: bytes) -> str:
    with Image.open(BytesIO(file)) as image:
        return "." + _SUFFIXES.get(image.format or "", (image.format or "bin").lower())

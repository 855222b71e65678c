"""The files of an image classifier's version.

Letters in shapes: `N` images, `H` `W` size, `C` channels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.repository.manifest import Provenance, VersionFacts
from service.tasks import TASKS
from training.core.export import EXPORT_BATCH, PARITY_BATCHES, TOLERANCE, ExportInputs, export_network
from training.core.version_folder import LABELS_FILE, draft_facts, write_golden_files, write_labels
from training.images.fit import ImageData
from training.images.golden import choose_golden_images
from training.images.learner import ImageLearner


def write_version(
    folder: Path, learner: ImageLearner, data: ImageData, provenance: Provenance
) -> VersionFacts:
    """Write every file of a version but `version.yaml`; return its content without metrics.

    Raises:
        ExportFailed: The graph does not answer as PyTorch does.
    """
    spec, task = learner.recipe.input, learner.recipe.manifest.task
    golden = choose_golden_images(learner, data.source, data.parts.validation)
    images = with_synthetic_images(np.stack([one.image for one in golden]), learner.recipe.seed)
    (name,) = TASKS[task].inputs
    inputs = ExportInputs(
        (torch.zeros((EXPORT_BATCH, spec.height, spec.width, spec.channels), dtype=torch.uint8),),
        ({0: torch.export.Dim("N", min=1)},),
        [
            (f"batch size {size}", {name: np.take(images, range(size), axis=0, mode="wrap")})
            for size in PARITY_BATCHES
        ],
        {name: images},
    )
    write_labels(folder, learner.labels)
    export_network(folder, learner.eval().graph, task, inputs)
    write_golden_files(folder, [(one.case, one.file) for one in golden])
    tolerance = dict.fromkeys(TASKS[task].outputs, TOLERANCE)
    return draft_facts(folder, provenance, tolerance, input=spec, labels=LABELS_FILE)


def with_synthetic_images(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Append images that are unlike any training image.

    Args:
        images: u8 [N, H, W, C].
        seed: Seed of the noise.

    Returns:
        u8 [N+5, H, W, C]: the images, then black, white, a ramp, a checkerboard and noise.
    """
    shape = images.shape[1:]
    height, width, _ = shape
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], shape)
    checks = (np.indices((height, width)).sum(axis=0) % 2 * 255)[..., None]
    noise = np.random.default_rng(seed).integers(0, 256, shape)
    extremes = [np.zeros(shape), np.full(shape, 255), ramp, np.broadcast_to(checks, shape), noise]
    return np.concatenate([images, np.stack(extremes).astype(np.uint8)])

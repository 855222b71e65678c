"""The files of a detector's version.

Letters in shapes: `N` images, `H` `W` size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.runtime.session import Device, Session
from service.repository.golden import write_golden_arrays
from service.repository.manifest import Provenance, VersionFacts
from training.core.export import EXPORT_BATCH, GRAPH_FILE, torch_run, write_graph
from training.core.version_folder import LABELS_FILE, draft_facts, write_golden_files, write_labels
from training.detection.calibration import calibrate_scores
from training.detection.dataset import DetectionSource, decode_annotated
from training.detection.golden import choose_golden_images
from training.detection.learner import DetectorLearner
from training.detection.reference_decoder import TOLERANCES, check_parity, is_unambiguous
from training.networks.detector import STRIDE

_GOLDEN_ARRAYS = 3  # real images in the golden arrays


def write_version(
    folder: Path, learner: DetectorLearner, source: DetectionSource, provenance: Provenance
) -> VersionFacts:
    """Write every file of a version but `version.yaml`; return its content without metrics.

    Raises:
        ExportFailed: The graph does not detect what PyTorch detects.
    """
    network, recipe = learner.eval().graph, learner.recipe
    files = source.validation_files()
    calibrate_scores(learner, files)
    write_labels(folder, learner.labels)
    export_detector(learner, folder / GRAPH_FILE)
    golden = choose_golden_images(learner, files)
    images = np.stack([decode_annotated(file, recipe.input)[0] for file, _ in golden[:_GOLDEN_ARRAYS]])
    images = np.concatenate([images, _synthetic_images(images.shape[1:])])
    check_parity(network, Session(folder / GRAPH_FILE, Device("cpu")), images, STRIDE)
    inputs = {"image": images[is_unambiguous(network, images, STRIDE)]}
    write_golden_arrays(folder, inputs, torch_run(network, recipe.manifest.task)(inputs))
    write_golden_files(folder, [(case, file.file) for file, case in golden])
    return draft_facts(folder, provenance, TOLERANCES, input=recipe.input, labels=LABELS_FILE)


def export_detector(learner: DetectorLearner, path: Path) -> None:
    """Write the whole network, pixels to boxes, as one ONNX file."""
    recipe = learner.recipe
    example = torch.zeros((EXPORT_BATCH, recipe.input.height, recipe.input.width, 3), dtype=torch.uint8)
    write_graph(learner.graph, recipe.manifest.task, (example,), ({0: torch.export.Dim("N", min=1)},), path)


def _synthetic_images(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return images unlike any training image: black, white, a ramp and a checkerboard, u8 [4, H, W, 3]."""
    height, width, _ = shape
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], shape)
    checks = np.broadcast_to((np.indices((height, width)).sum(axis=0) // 8 % 2 * 255)[..., None], shape)
    return np.stack([np.zeros(shape), np.full(shape, 255), ramp, checks]).astype(np.uint8)

"""Calibrate the detector's scores: the task's default threshold, 0.5, becomes the best one.

Scores that were trained with focal loss are too low. A power of the score keeps the order of detections and
therefore every average precision. It is chosen on the validation part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.detection.dataset import AnnotatedImage
from training.detection.learner import DetectorLearner
from training.detection.metrics import THRESHOLD, matches
from training.detection.predict import Predicted, predict_with_checkpoint

_CANDIDATES = np.arange(0.10, 0.81, 0.02)  # candidates for the threshold, as raw scores


def calibrate_scores(learner: DetectorLearner, files: Sequence[AnnotatedImage]) -> float:
    """Set the power of the scores.

    Args:
        learner: The trained detector; its network is changed.
        files: The validation part.

    Returns:
        The power.
    """
    learner.graph.score_power.fill_(1.0)
    found = predict_with_checkpoint(learner, files)
    best = best_threshold(files, found)
    power = float(np.log(THRESHOLD) / np.log(best))
    learner.graph.score_power.fill_(power)
    return power


def best_threshold(files: Sequence[AnnotatedImage], found: Sequence[Predicted]) -> float:
    """Return the threshold with the best F1; the middle one of those within 0.2% of it."""
    f1 = np.array([_f1(files, found, float(threshold)) for threshold in _CANDIDATES])
    good = _CANDIDATES[f1 >= f1.max() - 0.002]
    return float(good[len(good) // 2])


def _f1(files: Sequence[AnnotatedImage], found: Sequence[Predicted], threshold: float) -> float:
    right = answered = things = 0
    for file, one in zip(files, found, strict=True):
        sure = one.scores >= threshold
        right += len(matches(file, one, sure))
        answered += int(sure.sum())
        things += len(file.labels)
    return 2 * right / max(1, answered + things)

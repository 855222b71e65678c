"""Scores on a scale that people can use: 0.5, the task's default threshold, shall be the best one.

Heat learnt with focal loss is too modest. A power of the score keeps the order of detections and so
every average precision; it is chosen on the validation part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.detection.dataset import AnnotatedFile
from training.detection.learner import DetectorLearner
from training.detection.metrics import THRESHOLD, matches
from training.detection.predict import Found, answers_of_checkpoint

_CANDIDATES = np.arange(0.10, 0.81, 0.02)  # raw scores that may become the threshold


def calibrate(learner: DetectorLearner, files: Sequence[AnnotatedFile]) -> float:
    """Set the power that scores are raised to.

    Args:
        learner: Its graph is changed.
        files: The validation part.

    Returns:
        The power.
    """
    learner.graph.score_power.fill_(1.0)
    found = answers_of_checkpoint(learner, files)
    best = best_threshold(files, found)
    power = float(np.log(THRESHOLD) / np.log(best))
    learner.graph.score_power.fill_(power)
    return power


def best_threshold(files: Sequence[AnnotatedFile], found: Sequence[Found]) -> float:
    """Find the threshold with the best F1, the middle one of several that are as good within 0.2%."""
    f1 = np.array([_f1(files, found, float(threshold)) for threshold in _CANDIDATES])
    good = _CANDIDATES[f1 >= f1.max() - 0.002]
    return float(good[len(good) // 2])


def _f1(files: Sequence[AnnotatedFile], found: Sequence[Found], threshold: float) -> float:
    right = answered = things = 0
    for file, one in zip(files, found, strict=True):
        sure = one.scores >= threshold
        right += len(matches(file, one, sure))
        answered += int(sure.sum())
        things += len(file.labels)
    return 2 * right / max(1, answered + things)

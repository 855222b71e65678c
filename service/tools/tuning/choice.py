"""Selects among measured settings: the Pareto front, and the best one for a deadline."""

from __future__ import annotations

from collections.abc import Sequence

from service.tools.tuning.sweep import Measurement

_SAFETY_FACTOR = 1.2  # allowed growth of a batch's time over the measured one
_EQUAL_RATE = 0.03  # a smaller difference in rate does not justify a longer wait


def pareto_front(measured: Sequence[Measurement]) -> list[Measurement]:
    """Return the settings that no other beats in both rate and answer time, fastest answer first."""
    kept: list[Measurement] = []
    for one in sorted(measured, key=lambda one: (one.answer_seconds, -one.items_per_second)):
        if not kept or one.items_per_second > kept[-1].items_per_second:
            kept.append(one)
    return kept


def meets_deadline(one: Measurement, deadline_seconds: float) -> bool:
    """Return whether answers meet the deadline on a busy host, by the engine's rule for the largest batch."""
    return _SAFETY_FACTOR * one.answer_seconds <= deadline_seconds


def choose(measured: Sequence[Measurement], deadline_seconds: float) -> Measurement | None:
    """Return the setting with the highest rate that meets the deadline.

    Of settings with nearly the same rate, the one with the shortest answer time is chosen.

    Returns:
        None if no setting meets the deadline.
    """
    fitting = [one for one in measured if meets_deadline(one, deadline_seconds)]
    highest = max((one.items_per_second for one in fitting), default=0.0)
    equal = [one for one in fitting if one.items_per_second >= highest * (1 - _EQUAL_RATE)]
    return min(equal, key=lambda one: (one.answer_seconds, one.setting), default=None)

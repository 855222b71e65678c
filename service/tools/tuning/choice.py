"""Which of the measured settings are worth having, and which is best for a deadline."""

from __future__ import annotations

from collections.abc import Sequence

from service.tools.tuning.sweep import Measured

MARGIN = 1.2  # a batch takes this much longer than measured before an answer is late
_SAME = 0.03  # rates that differ by less are no reason to wait longer


def front(measured: Sequence[Measured]) -> list[Measured]:
    """Keep what no other setting beats in both rate and waiting, the quickest first."""
    kept: list[Measured] = []
    for one in sorted(measured, key=lambda one: (one.answer_seconds, -one.items_per_second)):
        if not kept or one.items_per_second > kept[-1].items_per_second:
            kept.append(one)
    return kept


def fits(one: Measured, deadline_seconds: float) -> bool:
    """Tell whether answers come in time on a busy host: the engine's own rule for the largest batch."""
    return MARGIN * one.answer_seconds <= deadline_seconds


def choose(measured: Sequence[Measured], deadline_seconds: float) -> Measured | None:
    """Choose the highest rate that fits; of those as good as equal, the one that waits least.

    Returns:
        None where not even one item at a time fits.
    """
    fitting = [one for one in measured if fits(one, deadline_seconds)]
    most = max((one.items_per_second for one in fitting), default=0.0)
    equal = [one for one in fitting if one.items_per_second >= most * (1 - _SAME)]
    return min(equal, key=lambda one: (one.answer_seconds, one.setting), default=None)

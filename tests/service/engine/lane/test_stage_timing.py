"""When the next batch may be claimed while one runs."""

from __future__ import annotations

import math

import pytest

from service.engine.lane.stage_timing import StageTiming

LEAST = 0.0005


def test_on_a_free_device_it_is_never_too_early() -> None:
    assert StageTiming().premature_seconds(0.0, None, 2.0) == 0.0


def test_a_claim_comes_a_twentieth_of_the_run_before_its_end() -> None:
    timing = StageTiming()
    assert timing.premature_seconds(10.0, 11.0, 2.0) == pytest.approx(1 - 0.05 * 2 - LEAST)
    assert timing.premature_seconds(10.95, 11.0, 2.0) == 0.0


def test_and_earlier_by_what_copies_take_on_average() -> None:
    timing = StageTiming()
    timing.note_copy(0.010)
    assert timing.premature_seconds(0.0, 1.0, 0.0) == pytest.approx(1 - 1.25 * 0.2 * 0.010 - LEAST, abs=1e-6)
    for _ in range(100):
        timing.note_copy(0.010)
    assert timing.premature_seconds(0.0, 1.0, 0.0) == pytest.approx(1 - 1.25 * 0.010 - LEAST, abs=1e-6)


def test_no_batch_is_claimed_while_another_is_staged() -> None:
    timing = StageTiming()
    timing.staging = True
    assert timing.premature_seconds(0.94, None, 0.0) == math.inf

"""What is said of a finished load."""

from __future__ import annotations

import json

from service.tools.load.tally import Tally, summarise


def test_quantiles_are_values_that_were_seen() -> None:
    tally = Tally()
    for milliseconds in range(1, 1001):
        tally.record(200, milliseconds / 1000)
    found = summarise(tally, 10).latency_ms
    seen = [round(found[name]) for name in ("p50", "p90", "p99", "p99.9", "max")]
    assert seen == [501, 901, 991, 1000, 1000]
    assert round(found["mean"], 3) == 500.5


def test_goodput_counts_what_came_in_time() -> None:
    tally = Tally(deadline_seconds=0.1)
    for status, seconds in ((200, 0.1), (200, 0.11), (429, 0.01), (504, 0.2)):
        tally.sent += 1
        tally.record(status, seconds)
    tally.unsent = 4
    summary = summarise(tally, 2)
    assert (summary.offered_rate, summary.answered_rate, summary.goodput, summary.late) == (4.0, 1.0, 0.5, 1)
    assert summary.statuses == {"200": 2, "429": 1, "504": 1}


def test_without_a_deadline_every_answer_is_good() -> None:
    tally = Tally()
    tally.record(200, 1e6)
    assert summarise(tally, 1).goodput == 1


def test_an_empty_load_is_json_too() -> None:
    content = json.loads(json.dumps(summarise(Tally(), 1).as_json()))
    assert (content["requests"], content["latency_ms"], content["statuses"]) == (0, {}, {})

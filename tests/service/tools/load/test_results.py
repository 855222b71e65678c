"""The summary of a finished load."""

from __future__ import annotations

import json

from service.tools.load.results import LoadRecorder, summarise


def test_quantiles_are_observed_values() -> None:
    recorder = LoadRecorder()
    for milliseconds in range(1, 1001):
        recorder.record(200, milliseconds / 1000)
    found = summarise(recorder, 10).latency_ms
    seen = [round(found[name]) for name in ("p50", "p90", "p99", "p99.9", "max")]
    assert seen == [501, 901, 991, 1000, 1000]
    assert round(found["mean"], 3) == 500.5


def test_goodput_counts_answers_within_the_deadline() -> None:
    recorder = LoadRecorder(deadline_seconds=0.1)
    for status, seconds in ((200, 0.1), (200, 0.11), (429, 0.01), (504, 0.2)):
        recorder.due += 1
        recorder.record(status, seconds)
    recorder.due += 4
    summary = summarise(recorder, 2)
    assert (summary.offered_rate, summary.answered_rate, summary.goodput, summary.late) == (4.0, 1.0, 0.5, 1)
    assert summary.statuses == {"200": 2, "429": 1, "504": 1}


def test_without_a_deadline_every_answer_counts_as_goodput() -> None:
    recorder = LoadRecorder()
    recorder.record(200, 1e6)
    assert summarise(recorder, 1).goodput == 1


def test_the_summary_of_an_empty_load_is_json() -> None:
    content = json.loads(json.dumps(summarise(LoadRecorder(), 1).as_json()))
    assert (content["requests"], content["latency_ms"], content["statuses"]) == (0, {}, {})

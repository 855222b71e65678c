"""Headers and parameters of a request, as values."""

from __future__ import annotations

import pytest

from service.http.v1.parameters import parse_priority, parse_timeout


@pytest.mark.parametrize(
    ("header", "priority"), [(None, 2), (b"0", 2), (b"1", 1), (b"9", 9), (b"10", 9), (b"999999999", 9)]
)
def test_priorities_are_1_to_9(header: bytes | None, priority: int) -> None:
    assert parse_priority(header) == priority


@pytest.mark.parametrize(("header", "seconds"), [(None, None), (b"250", 0.25), (b"0.5", 0.0005)])
def test_a_timeout_is_given_in_milliseconds(header: bytes | None, seconds: float | None) -> None:
    assert parse_timeout(header) == seconds

"""The error tree: statuses and codes are a promise to clients."""

from __future__ import annotations

import pytest

from service import errors
from service.errors import InvalidInput, KotaeError, Overloaded, RequestError

STATUSES = {
    "invalid_input": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "too_large": 413,
    "unsupported_media": 415,
    "validation_error": 422,
    "overloaded": 429,
    "rate_limited": 429,
    "client_gone": 499,
    "inference_failed": 500,
    "not_ready": 503,
    "deadline_exceeded": 504,
}


def _error_classes() -> list[type[KotaeError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, KotaeError)]


@pytest.mark.parametrize(
    "kind", [kind for kind in _error_classes() if issubclass(kind, RequestError) and kind is not RequestError]
)
def test_every_request_error_has_the_status_and_code_that_are_documented(kind: type[RequestError]) -> None:
    assert STATUSES[kind.code] == kind.status


def test_no_two_errors_share_a_code() -> None:
    codes = [
        kind.code for kind in _error_classes() if issubclass(kind, RequestError) and kind is not RequestError
    ]
    assert len(set(codes)) == len(codes)


def test_the_outline_of_the_errors_draws_every_class_with_its_status() -> None:
    lines = (errors.__doc__ or "").splitlines()
    for kind in _error_classes():
        [drawn] = [line for line in lines if kind.__name__ in line.split()]
        if issubclass(kind, RequestError) and kind is not RequestError:
            assert str(kind.status) in drawn.split(), drawn


def test_an_error_tells_what_is_wrong_where_and_when_to_come_back() -> None:
    error = InvalidInput("too bad", param="inputs[3]", retry_after_seconds=2)
    assert str(error) == error.message == "too bad"
    assert (error.param, error.retry_after_seconds) == ("inputs[3]", 2)


def test_whoever_is_refused_for_load_is_told_when_to_come_back() -> None:
    error = Overloaded("the queue is full", reason="queue_full")
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds > 0

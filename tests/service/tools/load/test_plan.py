"""Addresses, requests and the bounds of a plan."""

from __future__ import annotations

import pytest

from service.errors import StartFailed
from service.tools.load.plan import MAX_CLIENTS, LoadPlan, TargetAddress


def test_a_url_gives_host_port_and_path() -> None:
    assert TargetAddress.parse("http://127.0.0.1:8080/v1/x?model=a") == TargetAddress(
        "127.0.0.1", 8080, False, "/v1/x?model=a"
    )
    assert TargetAddress.parse("https://kotae.example") == TargetAddress("kotae.example", 443, True, "/")
    assert TargetAddress.parse("https://kotae.example").tls is not None
    assert (
        TargetAddress.parse("http://[::1]").post(b"", {}).startswith(b"POST / HTTP/1.1\r\nHost: [::1]:80\r\n")
    )


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://x:99999", "http://x:a"])
def test_an_invalid_url_is_an_error(url: str) -> None:
    with pytest.raises(StartFailed):
        TargetAddress.parse(url)


def test_a_request_is_a_post_with_its_length() -> None:
    request = TargetAddress.parse("http://a:1/p").post(b"body", {"X-Timeout-Ms": "5"}, "/q")
    assert request == b"POST /q HTTP/1.1\r\nHost: a:1\r\nX-Timeout-Ms: 5\r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize("value", ["x\r\nHost: evil", "答え"])
def test_a_header_that_cannot_be_sent_is_an_error(value: str) -> None:
    with pytest.raises(StartFailed, match="a path or a header"):
        TargetAddress.parse("http://a/p").post(b"", {"Authorization": value})


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"clients": MAX_CLIENTS + 1}, "clients must lie between"),
        ({"clients": 1, "rate": 1.0}, "either a number of clients or a rate"),
        ({}, "either a number of clients or a rate"),
        ({"rate": -1.0}, "rate must lie between"),
        ({"clients": 1, "seconds": 1e9}, "seconds must lie between"),
        ({"clients": 1, "seconds": 0.0}, "nothing to send"),
        ({"clients": 1, "requests": ()}, "nothing to send"),
    ],
)
def test_a_plan_is_bounded(how: dict[str, object], problem: str) -> None:
    fields: dict[str, object] = {"requests": (b"x",), "seconds": 1.0, **how}
    with pytest.raises(StartFailed, match=problem):
        LoadPlan(TargetAddress.parse("http://a"), **fields)  # type: ignore[arg-type]

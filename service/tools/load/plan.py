"""What load to generate: target, requests, number of clients or rate, and duration."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

from service.errors import StartFailed

MAX_SECONDS = 3600
MAX_CLIENTS = 4096
MAX_RATE = 50_000
MAX_REQUESTS = 5_000_000  # bounds the memory for latencies: 8 bytes each


@dataclass(frozen=True, slots=True)
class TargetAddress:
    """The service under load."""

    host: str
    port: int
    encrypted: bool = False
    path: str = "/"

    @classmethod
    def parse(cls, url: str) -> TargetAddress:
        """Parse a URL.

        Raises:
            StartFailed: It is not an http or https URL.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise StartFailed(f"{url}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StartFailed(f"{url} is not a URL such as http://127.0.0.1:8080")
        encrypted = parts.scheme == "https"
        path = parts.path or "/"
        path += f"?{parts.query}" if parts.query else ""
        return cls(parts.hostname, port or (443 if encrypted else 80), encrypted, path)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The TLS context, or None without encryption."""
        return _tls_context() if self.encrypted else None

    def post(self, body: bytes, headers: Mapping[str, str], path: str | None = None) -> bytes:
        """Return a POST request, head and body.

        Raises:
            StartFailed: The path or a header holds a line break or cannot be encoded.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        fields = {"Host": f"{host}:{self.port}", **headers, "Content-Length": str(len(body))}
        lines = [
            f"POST {path or self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in fields.items()),
        ]
        if any("\r" in line or "\n" in line for line in lines):
            raise StartFailed("a path or a header must not hold a line break")
        try:
            return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        except UnicodeEncodeError as error:
            raise StartFailed(f"a path or a header holds {error.object[error.start]!r}") from error


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A load.

    Attributes:
        requests: Complete HTTP requests, sent in turn from a random one on, so that few equal ones are in
            flight at once.
        seconds: How long requests are sent. Answers are awaited beyond that.
        clients: Closed loop: number of clients. 0 in open loop.
        rate: Open loop: mean requests a second of a Poisson process. 0 in closed loop.
        deadline_seconds: Answers after it count as late; None is no deadline.
        max_connections: Open loop: most requests in flight.
        timeout_seconds: How long to wait for one answer.
        seed: Of the arrival times and the first request.
    """

    address: TargetAddress
    requests: tuple[bytes, ...]
    seconds: float
    clients: int = 0
    rate: float = 0.0
    deadline_seconds: float | None = None
    max_connections: int = 1024
    timeout_seconds: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("seconds", self.seconds, MAX_SECONDS),
            ("clients", self.clients, MAX_CLIENTS),
            ("rate", self.rate, MAX_RATE),
        ):
            if not 0 <= value <= limit:
                raise StartFailed(f"{name} must lie between 0 and {limit}")
        if bool(self.clients) == bool(self.rate):
            raise StartFailed("give either a number of clients or a rate")
        if not self.requests or not self.seconds:
            raise StartFailed("there is nothing to send")


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()

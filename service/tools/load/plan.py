"""What load to make: where to, which requests, how many at once or how many a second, for how long."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.errors import StartFailed

MAX_SECONDS = 3600
MAX_CLIENTS = 4096
MAX_RATE = 50_000
MAX_REQUESTS = 5_000_000  # what a tally holds: 8 bytes each


@dataclass(frozen=True, slots=True)
class Address:
    """Where the load goes."""

    host: str
    port: int
    encrypted: bool
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL.

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
        """The context of an encrypted connection."""
        return ssl.create_default_context() if self.encrypted else None

    def request(self, body: bytes, headers: Mapping[str, str], path: str | None = None) -> bytes:
        """Write a POST request, head and body."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        every = {"Host": f"{host}:{self.port}", **headers, "Content-Length": str(len(body))}
        lines = [f"POST {path or self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in every.items())]
        if any("\r" in line or "\n" in line for line in lines):
            raise StartFailed("a path or a header must not hold a line break")
        try:
            return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        except UnicodeEncodeError as error:
            raise StartFailed(f"a path or a header holds {error.object[error.start]!r}") from error


@dataclass(frozen=True, slots=True)
class Plan:
    """A load.

    Attributes:
        requests: Whole requests; each time one of them is drawn at random.
        seconds: How long requests are sent; their answers are waited for beyond it.
        clients: Closed loop: connections that each wait for their answer. 0 with a rate.
        rate: Open loop: mean requests a second, arriving as a Poisson process. 0 with clients.
        deadline_seconds: An answer after it is late; None is no deadline.
        max_connections: Open loop: most requests under way at once.
        timeout_seconds: An answer that takes longer is not waited for.
        seed: Of the arrivals and of the choice of requests.
    """

    address: Address
    requests: tuple[bytes, ...]
    seconds: float
    clients: int = 0
    rate: float = 0.0
    deadline_seconds: float | None = None
    max_connections: int = 1024
    timeout_seconds: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("seconds", self.seconds, MAX_SECONDS),
            ("clients", self.clients, MAX_CLIENTS),
            ("rate", self.rate, MAX_RATE),
        ):
            if not 0 <= value <= most:
                raise StartFailed(f"{name} must lie between 0 and {most}")
        if bool(self.clients) == bool(self.rate):
            raise StartFailed("give either a number of clients or a rate")
        if not self.requests or not self.seconds:
            raise StartFailed("there is nothing to send")

"""The engine's interface: a queue takes pending requests; it is in this process or in another one."""

from __future__ import annotations

from typing import Protocol

from service.engine.queue.pending_request import PendingRequest


class RequestQueue(Protocol):
    """A version's queue as the API sees it; `Batcher` is the real one."""

    @property
    def queue_items(self) -> int:
        """Items that wait."""

    @property
    def predicted_wait_seconds(self) -> float:
        """Expected seconds until the batch of a new request starts; 0 when idle."""

    @property
    def predicted_answer_seconds(self) -> float:
        """Expected seconds until a new request has its answer, its own run included."""

    @property
    def is_refusing(self) -> bool:
        """Whether a request was refused in the last tenth of a second."""

    @property
    def closed(self) -> bool:
        """Whether new requests are refused for good."""

    def check(self, priority: int, deadline: float, coming: int) -> None:
        """Refuse a request before it is decoded, if `submit` would refuse it.

        Args:
            priority: 1 is highest.
            deadline: In clock seconds.
            coming: Items that are being decoded.

        Raises:
            Overloaded: Even the smallest item would not be admitted.
        """

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        """Admit a request's items, all or none, or raise the `RequestError` that the client gets."""

    def close(self, reason: str) -> None:
        """Refuse new requests from now on, and fail all that wait."""

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
        """Expected seconds until the batch of a newcomer starts; 0 when idle."""

    @property
    def predicted_answer_seconds(self) -> float:
        """Expected seconds until a newcomer has its answer, its own run included."""

    @property
    def closed(self) -> bool:
        """Whether newcomers are refused for good."""

    def check(self, priority: int, deadline: float, coming: int) -> None:
        """Refuse, before it is decoded, a request that is known to be refused when it is submitted.

        Args:
            priority: 1 is highest.
            deadline: In clock seconds.
            coming: Items that are being decoded.

        Raises:
            Overloaded: Even the least item would not be let in.
        """

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        """Let a request's items in, all or none, or raise the `RequestError` that the request shall get."""

    def close(self, reason: str) -> None:
        """Refuse newcomers from now on and fail all that wait."""

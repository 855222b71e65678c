"""The engine's events, as an interface, so that the engine needs no metrics library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One run of one batch.

    Attributes:
        items: Items that ran.
        padding_ratio: Padded cost over real cost, 1.0 where nothing was padded.
        queue_seconds: Each item's wait between submission and claim.
        batch_seconds: From the claim until the inputs stood ready.
        infer_seconds: The run itself.
    """

    model: str
    version: str
    device: str
    items: int
    padding_ratio: float
    queue_seconds: tuple[float, ...]
    batch_seconds: float
    infer_seconds: float


class Observer:
    """Receives the engine's events and, as it stands, ignores them; override what is of interest.

    Called from lane and decode threads; must be quick and not raise.
    """

    def model_added(self, model: str, version: str) -> None:
        """A version got its queue."""

    def lane_added(self, device: str) -> None:
        """A lane was made."""

    def model_placed(self, model: str, version: str, device: str) -> None:
        """A lane serves a version from now on."""

    def batch_done(self, report: BatchReport) -> None:
        """A batch ran and its items have their answers."""

    def batch_failed(self, model: str, version: str) -> None:
        """A run raised or gave wrong outputs."""

    def out_of_memory(self, model: str, version: str, device: str) -> None:
        """A batch did not fit a device's memory."""

    def item_dropped(self, model: str, version: str, reason: str) -> None:
        """An item left the queue without running: `expired`, `gone`, `failed_sibling` or `shutdown`."""

    def items_shared(self, model: str, version: str, items: int) -> None:
        """Items follow an equal one that waits or runs."""

    def cache_asked(self, model: str, version: str, hits: int, misses: int) -> None:
        """A request's items were looked up in the cache of answers."""

    def cache_sized(self, model: str, version: str, size_bytes: int) -> None:
        """A cache of answers was made, or takes another number of bytes now."""

    def lane_busy(self, device: str, seconds: float) -> None:
        """A lane spent this long on a batch."""

    def lane_died(self, device: str, error: BaseException) -> None:
        """A lane's thread ended by an exception."""

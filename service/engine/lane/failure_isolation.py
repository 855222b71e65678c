"""What becomes of the items of a batch that failed: everyone but the culprits gets an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from service.engine.lane.outputs import NotFinite, WrongOutputs, check_rows, split_rows
from service.engine.lane.schedule import Placement
from service.engine.observer import Observer
from service.engine.queue.batch import padded_cost, stack
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import Item, Settlement
from service.engine.runtime.memory import OutOfMemory
from service.engine.runtime.run import Arrays
from service.errors import InferenceFailed

_log = logging.getLogger(__name__)


def inference_failed(items: Sequence[Item]) -> list[Settlement]:
    """Return an error for each item. It says where to look; the log has the reason."""
    text = "the inference failed; the request id finds the reason in the server's log"
    return [(item, InferenceFailed(text)) for item in items]


class FailureIsolation:
    """Finds the items that make a batch fail, by running halves of it again.

    Args:
        device: The device's name, for log and observer.
        observer: Is told of failures.
        run_again: Runs a part of a batch on the device.
    """

    def __init__(
        self, device: str, observer: Observer, run_again: Callable[[Placement[Batcher], Arrays], Arrays]
    ) -> None:
        self._device = device
        self._observer = observer
        self._run_again = run_again

    def isolate(
        self, placement: Placement[Batcher], items: Sequence[Item], error: Exception
    ) -> list[Settlement]:
        """Return an outcome for each item of a run that failed.

        A graph that returns a wrong number of rows fails all of them at once: halves would fail too.
        """
        self._report(placement.queue, items, error)
        if len(items) == 1 or isinstance(error, WrongOutputs):
            return inference_failed(items)
        middle = len(items) // 2
        return [*self._run_half(placement, items[:middle]), *self._run_half(placement, items[middle:])]

    def settle(self, batcher: Batcher, items: Sequence[Item], outputs: Arrays) -> list[Settlement]:
        """Return each item's row of the outputs; an error for an item whose row is not finite."""
        pairs, not_finite = split_rows(items, outputs)
        if not not_finite:
            return [*pairs]
        self._report(batcher, not_finite, NotFinite("the graph gave NaN or infinity"))
        return [*pairs, *inference_failed(not_finite)]

    def _run_half(self, placement: Placement[Batcher], items: Sequence[Item]) -> list[Settlement]:
        try:
            arrays = stack([item.inputs for item in items])
            outputs = check_rows(self._run_again(placement, arrays), len(items))
        except Exception as error:
            return self.isolate(placement, items, error)
        return self.settle(placement.queue, items, outputs)

    def _report(self, batcher: Batcher, items: Sequence[Item], error: Exception) -> None:
        if isinstance(error, OutOfMemory):
            self._observer.out_of_memory(batcher.model, batcher.version, self._device)
            batcher.note_out_of_memory(padded_cost(items))
            if len(items) > 1:  # nobody's fault: the halves may fit
                facts = (len(items), batcher.model, self._device, error)
                _log.warning("%d items of %s do not fit %s, and are halved: %s", *facts)
                return
        self._observer.batch_failed(batcher.model, batcher.version)
        _log.error(
            "%d items failed on %s for %s",
            len(items),
            self._device,
            batcher.model,
            exc_info=error,
            extra={"request_ids": sorted({item.pending.label for item in items})},
        )

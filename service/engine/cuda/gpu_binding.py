"""A graph whose inputs and outputs have fixed addresses on a GPU, with batches padded to few shapes.

    stage: pad ─▶ copy to the GPU │ run: one batch at a time │ outputs: copy back, drop padding
           on a stream of its own   on ONNX Runtime's stream    on a stream of its own

Each thread that runs batches has a slot: memory for one batch on the GPU and on the host. So one thread's
batch can be copied while another's runs. Where every row has a fixed shape, a slot binds each bucket once,
and a run can be captured as a CUDA graph. ONNX Runtime keeps a captured run by thread and by a number. It
replays it without comparing shapes or addresses; so numbers are chosen and checked here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.cuda.capture import GATE, CapturedRuns
from service.engine.cuda.device_memory import Block
from service.engine.runtime.memory import failure_of
from service.engine.runtime.run import Arrays, RunFailed
from service.engine.runtime.session import TensorSpec
from service.engine.runtime.shape_buckets import Buckets, pad

_NOT_CAPTURED = "-1"  # the number with which ONNX Runtime neither captures nor replays

_log = logging.getLogger(__name__)

Shapes = tuple[tuple[int, ...], ...]


class Memory(Protocol):
    """Memory of a device and its host, for one thread; see `CudaMemory`."""

    kind: str
    index: int

    def block(self, size_bytes: int) -> Block:
        """Allocate memory on the device."""

    def host(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        """Allocate the memory of the host that is copied fastest."""

    def to_device(self, block: Block, array: NDArray[Any]) -> None:
        """Copy an array to the beginning of a block."""

    def to_host(self, array: NDArray[Any], block: Block) -> None:
        """Fill an array from the beginning of a block."""


class Binding:
    """One session's graph, bound to memory.

    Args:
        session: ONNX Runtime's session.
        inputs: The graph's inputs.
        outputs: The graph's outputs.
        buckets: The shapes that batches are padded to.
        memory: Returns the memory of a thread.
        run_options: Returns new options of a run, ONNX Runtime's.
        captures: Whether the session was made for captured runs.
    """

    def __init__(
        self,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        buckets: Buckets,
        memory: Callable[[], Memory],
        *,
        run_options: Callable[[], Any],
        captures: bool = False,
    ) -> None:
        self.session = session
        self.inputs = inputs
        self.outputs = outputs
        self.buckets = buckets
        self.fixed_inputs = all(None not in spec.shape[1:] for spec in inputs)
        self.fixed_outputs = all(None not in spec.shape[1:] for spec in outputs)
        self.captured = CapturedRuns() if captures else None
        self.run_options = run_options
        self._memory = memory
        self._slots = threading.local()

    @property
    def is_captured(self) -> bool:
        """Whether runs are captured: it was asked for, works, and every shape is fixed."""
        return self.captured is not None and self.captured.works and self.fixed_inputs and self.fixed_outputs

    def stage(self, arrays: Arrays) -> BoundBatch:
        """Copy a batch to this thread's slot on the device. The batch that was there before must be over."""
        slot = getattr(self._slots, "slot", None)
        if slot is None:
            slot = self._slots.slot = _Slot(self, self._memory())
        return slot.stage(arrays)

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Run a batch of any size, in parts if it is larger than the largest bucket.

        Raises:
            RunFailed: See `BoundBatch.run`.
        """
        count, most = len(next(iter(arrays.values()))), self.buckets.max_items
        if count <= most or not self.fixed_inputs:
            return self._run(arrays)
        parts = [
            self._run({name: array[start : start + most] for name, array in arrays.items()})
            for start in range(0, count, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        batch = self.stage(arrays)
        batch.run()
        return batch.outputs()


@dataclass(eq=False)
class _Bound:
    """ONNX Runtime's binding for one set of shapes.

    Attributes:
        binding: ONNX Runtime's object.
        number: The number of its captured run; 0 where nothing is captured.
    """

    binding: Any
    number: int = 0


class _Slot:
    """Memory for one batch, and the bindings to it. Used by the thread that made it."""

    def __init__(self, owner: Binding, memory: Memory) -> None:
        self.owner = owner
        self.memory = memory
        self.results: dict[str, tuple[Block, NDArray[Any]]] = {}
        self._blocks: dict[str, Block] = {}
        self._padded: dict[str, NDArray[Any]] = {}
        self._bounds: dict[Shapes, _Bound] = {}
        if owner.fixed_inputs:
            for spec in owner.inputs:
                self._blocks[spec.name] = memory.block(self._most_bytes(spec))
        if owner.fixed_outputs:
            for spec in owner.outputs:
                host = memory.host((owner.buckets.max_items, *_row(spec)), spec.dtype)
                self.results[spec.name] = memory.block(host.nbytes), host

    def stage(self, arrays: Arrays) -> BoundBatch:
        for spec in self.owner.inputs:
            _check(spec, arrays[spec.name])
        shapes = tuple(
            self.owner.buckets.shape(arrays[spec.name].shape, spec.shape) for spec in self.owner.inputs
        )
        for spec, shape in zip(self.owner.inputs, shapes, strict=True):
            self._copy(spec.name, arrays[spec.name], shape)
        bound = self._bounds.get(shapes)
        if bound is None:
            bound = self._bind(shapes)
            if self.owner.fixed_inputs:
                self._bounds[shapes] = bound
        count = len(next(iter(arrays.values())))
        return BoundBatch(self, bound, self._shapes_and_addresses(shapes), count)

    def _copy(self, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
        """Copy an input to the device.

        Where shapes are fixed, rows of an earlier batch remain behind it; ragged inputs are padded.
        """
        if not self.owner.fixed_inputs and array.shape != shape:
            padded = self._padding_memory(name, shape, array.dtype)
            pad(array, padded)
            array = padded
        array = np.ascontiguousarray(array)
        block = self._blocks.get(name)
        if block is None or block.size_bytes < array.nbytes:
            block = self._blocks[name] = self.memory.block(array.nbytes)
        self.memory.to_device(block, array)

    def _padding_memory(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return pinned memory of a shape, to pad an input in."""
        size = int(np.prod(shape))
        if name not in self._padded or self._padded[name].size < size:
            self._padded[name] = self.memory.host((size,), dtype.name)
        return self._padded[name][:size].reshape(shape)

    def _bind(self, shapes: Shapes) -> _Bound:
        owner, memory = self.owner, self.memory
        binding = owner.session.io_binding()
        for spec, shape in zip(owner.inputs, shapes, strict=True):
            pointer = self._blocks[spec.name].pointer
            binding.bind_input(spec.name, memory.kind, memory.index, np.dtype(spec.dtype), shape, pointer)
        for spec in owner.outputs:
            if not owner.fixed_outputs:
                binding.bind_output(spec.name, memory.kind, memory.index)
                continue
            shape, pointer = (shapes[0][0], *_row(spec)), self.results[spec.name][0].pointer
            binding.bind_output(spec.name, memory.kind, memory.index, np.dtype(spec.dtype), shape, pointer)
        return _Bound(binding, owner.captured.new_number() if owner.captured is not None else 0)

    def _shapes_and_addresses(self, shapes: Shapes) -> object:
        pointers = [block.pointer for block in self._blocks.values()]
        pointers += [block.pointer for block, _ in self.results.values()]
        return shapes, tuple(pointers)

    def _most_bytes(self, spec: TensorSpec) -> int:
        rows = self.owner.buckets.max_items
        return rows * int(np.prod(_row(spec))) * np.dtype(spec.dtype).itemsize


class BoundBatch:
    """A batch that is staged in a slot.

    Attributes:
        options: ONNX Runtime's options of the run; not used where runs are captured.
    """

    def __init__(self, slot: _Slot, bound: _Bound, shapes_and_addresses: object, count: int) -> None:
        self._slot = slot
        self._bound = bound
        self.options: Any = None
        self._shapes_and_addresses = shapes_and_addresses
        self._count = count

    def run(self) -> None:
        """Run the batch.

        Raises:
            OutOfMemory: The batch does not fit the device.
            RunFailed: ONNX Runtime raised anything else, or the captured run is of another shape.
        """
        try:
            self._run_or_replay()
        except Exception as error:  # onnxruntime raises many unrelated classes here
            raise failure_of(error) from error

    def _run_or_replay(self) -> None:
        owner = self._slot.owner
        if not owner.is_captured:
            self._run(_NOT_CAPTURED)
            return
        captured, number = owner.captured, self._bound.number
        assert captured is not None, "is_captured says that there are captured runs"
        if captured.has(number):
            captured.check(number, self._shapes_and_addresses)
            self._run(str(number))
            return
        with GATE.alone():
            try:
                self._call(str(number))  # runs, captures, and replays
            except Exception:
                captured.works = False
                _log.warning("a run could not be captured: the model runs without", exc_info=True)
            else:
                captured.add(number, self._shapes_and_addresses)
        if not captured.works:
            self._run(_NOT_CAPTURED)

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Return the outputs in host memory, without the rows of padding."""
        slot = self._slot
        owner = slot.owner
        if not owner.fixed_outputs:
            with GATE.shared():
                arrays = self._bound.binding.copy_outputs_to_cpu()
            pairs = zip(owner.outputs, arrays, strict=True)
            return {spec.name: array[: self._count] for spec, array in pairs}
        outputs = {}
        for name, (block, host) in slot.results.items():
            rows = host[: self._count]
            slot.memory.to_host(rows, block)
            outputs[name] = rows.copy()  # the next batch is copied to the same memory
        return outputs

    def _run(self, number: str) -> None:
        with GATE.shared():
            self._call(number)

    def _call(self, number: str) -> None:
        owner, options = self._slot.owner, self.options
        if owner.captured is not None:
            options = owner.run_options()
            options.add_run_config_entry("gpu_graph_id", number)
        owner.session.run_with_iobinding(self._bound.binding, options)


def _check(spec: TensorSpec, array: NDArray[Any]) -> None:
    """Raise `RunFailed` if an array is not what the graph takes. ONNX Runtime would only see its bytes."""
    fits = len(array.shape) == len(spec.shape) and all(
        axis is None or axis == size for axis, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(spec.dtype):
        raise RunFailed(f"{spec.name} is {array.dtype} {array.shape}, the graph takes {spec}")


def _row(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(axis for axis in spec.shape[1:] if axis is not None)

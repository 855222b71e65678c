"""Memory of a GPU and of the host beside it, and copies between the two that run beside the graph.

NVIDIA's own binding of the CUDA runtime does the work (`cuda-bindings`, in the `gpu` extra; the names are
those of its page "CUDA Runtime API"). Pinned memory is copied by the GPU itself; other memory goes through
the driver's own buffers first.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.runtime.run import RunFailed


class CaptureGate:
    """Keeps everybody else away from the GPU's interface while a run is being captured.

    A capture fails if another thread of the process, whatever it works at, allocates or waits meanwhile
    (CUDA Runtime API, `cudaStreamCaptureModeGlobal`). They happen while a model is loaded, so they are few.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._capturing = False
        self._mine = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Do anything but capture. Whoever is inside may come again: memory is freed at any moment."""
        if getattr(self._mine, "inside", False):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._mine.inside = True
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._mine.inside = False
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Capture."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._mine.inside = True
            self._capturing = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._inside)
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._mine.inside = False
                self._changed.notify_all()


GATE = CaptureGate()


class Block:
    """Memory on a device; it is free again with the last reference.

    Attributes:
        pointer: Its address there.
    """

    def __init__(self, pointer: int, size_bytes: int, keeper: Any = None) -> None:
        self.pointer = pointer
        self.size_bytes = size_bytes
        self._keeper = keeper


class CudaMemory:
    """One GPU's memory, and a stream of its own for copies. For one thread.

    Args:
        index: Which GPU.
    """

    kind = "cuda"

    def __init__(self, index: int) -> None:
        self.index = index
        cuda = _runtime()
        with GATE.shared():
            _checked(cuda.cudaSetDevice(index))
            self._stream = _checked(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
        _when_gone(self, cuda.cudaStreamDestroy, self._stream)

    def block(self, size_bytes: int) -> Block:
        """Allocate on the GPU."""
        cuda = _runtime()
        with GATE.shared():
            _checked(cuda.cudaSetDevice(self.index))
            pointer = int(_checked(cuda.cudaMalloc(max(1, size_bytes))))
        block = Block(pointer, size_bytes)
        _when_gone(block, cuda.cudaFree, pointer)
        return block

    def host(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        """Allocate pinned memory on the host; see `pinned`."""
        return pinned(shape, dtype)

    def to_device(self, block: Block, array: NDArray[Any]) -> None:
        """Copy a contiguous array to the beginning of a block, and wait for it."""
        cuda = _runtime()
        self._copy(block.pointer, array.ctypes.data, array.nbytes, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def to_host(self, array: NDArray[Any], block: Block) -> None:
        """Fill a contiguous array from the beginning of a block."""
        cuda = _runtime()
        self._copy(array.ctypes.data, block.pointer, array.nbytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        cuda = _runtime()
        with GATE.shared():
            _checked(cuda.cudaSetDevice(self.index))
            _checked(cuda.cudaMemcpyAsync(target, source, size_bytes, kind, self._stream))
            _checked(cuda.cudaStreamSynchronize(self._stream))


def pinned(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Allocate zeros in pinned memory, for any GPU; free again with the last view.

    Raises:
        RunFailed: There is no GPU, or not enough memory.
    """
    cuda = _runtime()
    count = int(np.prod(shape))
    size_bytes = max(1, count * np.dtype(dtype).itemsize)
    with GATE.shared():
        pointer = int(_checked(cuda.cudaHostAlloc(size_bytes, cuda.cudaHostAllocPortable)))
    memory = (ctypes.c_byte * size_bytes).from_address(pointer)
    _when_gone(memory, cuda.cudaFreeHost, pointer)
    array: NDArray[Any] = np.frombuffer(memoryview(memory), dtype=dtype, count=count).reshape(shape)
    array[...] = 0
    return array


def _when_gone(owner: Any, release: Callable[[Any], object], handle: Any) -> None:
    """Release with the last reference; not at the process's end, when threads may still be copying."""

    def release_when_nobody_captures() -> None:
        with GATE.shared():
            release(handle)

    weakref.finalize(owner, release_when_nobody_captures).atexit = False


def _runtime() -> Any:
    from cuda.bindings import runtime  # noqa: PLC0415 - what serves on the CPU does not have it

    return runtime


def _checked(result: tuple[Any, ...]) -> Any:
    """Give what a call of the CUDA runtime returned beside its status."""
    status, *values = result
    if int(status) != 0:
        _, text = _runtime().cudaGetErrorString(status)
        raise RunFailed(f"CUDA: {text.decode()} ({status.name})")
    return values[0] if values else None

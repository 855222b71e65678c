"""Memory of a GPU, pinned memory of the host, and copies between them while a graph runs.

The library is NVIDIA's `cuda-bindings` (in the `gpu` extra); the names are those of the CUDA Runtime API. The
GPU copies pinned memory itself; other memory is first copied to a buffer of the driver.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.cuda.capture import GATE
from service.engine.runtime.run import RunFailed


class Block:
    """Memory on a device, freed with the last reference.

    Attributes:
        pointer: Its address on the device.
        size_bytes: Its size.
    """

    def __init__(self, pointer: int, size_bytes: int, keeper: Any = None) -> None:
        self.pointer = pointer
        self.size_bytes = size_bytes
        self._keeper = keeper


class CudaMemory:
    """Memory of one GPU, and a stream of its own for copies. Used by one thread.

    Args:
        index: The number of the GPU.
    """

    kind = "cuda"

    def __init__(self, index: int) -> None:
        self.index = index
        cuda = _runtime()
        with GATE.shared():
            _checked(cuda.cudaSetDevice(index))
            self._stream = _checked(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
        _release_with(self, cuda.cudaStreamDestroy, self._stream)

    def block(self, size_bytes: int) -> Block:
        """Allocate memory on the GPU."""
        cuda = _runtime()
        with GATE.shared():
            _checked(cuda.cudaSetDevice(self.index))
            pointer = int(_checked(cuda.cudaMalloc(max(1, size_bytes))))
        block = Block(pointer, size_bytes)
        _release_with(block, cuda.cudaFree, pointer)
        return block

    def host(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        """Allocate pinned memory on the host; see `pinned`."""
        return pinned(shape, dtype)

    def to_device(self, block: Block, array: NDArray[Any]) -> None:
        """Copy a contiguous array to the beginning of a block; return when it is copied."""
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
    """Return an array of zeros in pinned memory, for any GPU; it is freed with the last view.

    Raises:
        RunFailed: There is no GPU or not enough memory.
    """
    cuda = _runtime()
    count = int(np.prod(shape))
    size_bytes = max(1, count * np.dtype(dtype).itemsize)
    with GATE.shared():
        pointer = int(_checked(cuda.cudaHostAlloc(size_bytes, cuda.cudaHostAllocPortable)))
    memory = (ctypes.c_byte * size_bytes).from_address(pointer)
    _release_with(memory, cuda.cudaFreeHost, pointer)
    array: NDArray[Any] = np.frombuffer(memoryview(memory), dtype=dtype, count=count).reshape(shape)
    array[...] = 0
    return array


def _release_with(owner: Any, release: Callable[[Any], object], handle: Any) -> None:
    """Release a handle with the last reference to its owner.

    Not at the end of the process, when threads may still be copying.
    """

    def release_outside_a_capture() -> None:
        with GATE.shared():
            release(handle)

    weakref.finalize(owner, release_outside_a_capture).atexit = False


def _runtime() -> Any:
    from cuda.bindings import runtime  # noqa: PLC0415 - not installed where the CPU serves

    return runtime


def _checked(result: tuple[Any, ...]) -> Any:
    """Return the value of a call of the CUDA runtime; raise `RunFailed` if its status is an error."""
    status, *values = result
    if int(status) != 0:
        _, text = _runtime().cudaGetErrorString(status)
        raise RunFailed(f"CUDA: {text.decode()} ({status.name})")
    return values[0] if values else None

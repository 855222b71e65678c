"""Stand-ins for a GPU: its memory is arrays, on which ONNX Runtime's CPU provider runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.cuda.device_memory import Block
from service.engine.cuda.gpu_session import GpuSession


class HostMemory:
    """Memory of a device that is the CPU.

    Attributes:
        blocks: How many were ever allocated.
        hosts: Arrays that were allocated on the host.
    """

    kind = "cpu"
    index = 0

    def __init__(self) -> None:
        self.blocks = 0
        self.hosts: list[NDArray[Any]] = []

    def block(self, size_bytes: int) -> Block:
        self.blocks += 1
        memory = np.zeros(max(1, size_bytes) + 64, dtype=np.uint8)
        start = -memory.ctypes.data % 64  # ONNX Runtime's kernels like it
        return Block(memory.ctypes.data + start, size_bytes, keeper=memory)

    def host(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        self.hosts.append(np.zeros(shape, dtype=dtype))
        return self.hosts[-1]

    def to_device(self, block: Block, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous and array.nbytes <= block.size_bytes
        bytes_of(block)[: array.nbytes] = array.reshape(-1).view(np.uint8)

    def to_host(self, array: NDArray[Any], block: Block) -> None:
        assert array.flags.c_contiguous and array.nbytes <= block.size_bytes
        array.reshape(-1).view(np.uint8)[...] = bytes_of(block)[: array.nbytes]


def bytes_of(block: Block) -> NDArray[np.uint8]:
    memory: NDArray[np.uint8] = block._keeper
    start = block.pointer - memory.ctypes.data
    return memory[start : start + block.size_bytes]


class HostGpuSession(GpuSession):
    """A GPU's session that runs on the CPU, in the CPU's memory."""

    def _open(self, path: Path, options: Any) -> Any:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _memory(self) -> HostMemory:
        return HostMemory()

    def _arena_devices(self) -> str:
        return "cpu:0"

    def _refuse_fallback(self, asked: str) -> None:
        pass

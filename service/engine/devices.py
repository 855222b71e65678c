"""Which devices a model runs on, and a session on any of them. Here alone the CPU and GPUs meet."""

from __future__ import annotations

from pathlib import Path

from service.engine.cuda.available_gpus import cuda_problem, gpu_names
from service.engine.cuda.gpu_session import GpuSession
from service.engine.cuda.providers import GpuOptions, GpuProvider
from service.engine.runtime.device import Device
from service.engine.runtime.session import Session
from service.errors import StartFailed

__all__ = ["Device", "choose_devices", "cuda_problem", "gpu_names", "open_session"]


def choose_devices(wanted: str, provider: GpuProvider = "cuda") -> tuple[Device, ...]:
    """Return the devices for a setting: `auto`, `cpu`, `cuda` (every GPU) or `cuda:N`.

    Args:
        wanted: The setting. Only `auto` takes the CPU where GPUs cannot be used.
        provider: What is to run graphs on GPUs.

    Raises:
        StartFailed: A GPU was asked for and cannot be used; the text names what is missing.
    """
    if wanted == "cpu":
        return (Device("cpu"),)
    problem = cuda_problem(provider)
    if problem and wanted == "auto":
        return (Device("cpu"),)
    if problem:
        raise StartFailed(f"device {wanted} was asked for, but {problem}")
    count = len(gpu_names())
    index = wanted.partition(":")[2]
    if not index:
        return tuple(Device("cuda", number) for number in range(count))
    if int(index) >= count:
        raise StartFailed(f"device {wanted} was asked for, but the last GPU here is cuda:{count - 1}")
    return (Device("cuda", int(index)),)


def open_session(
    path: Path, device: Device, *, threads: int = 1, spinning: bool = False, gpu: GpuOptions | None = None
) -> Session:
    """Load a graph on a device.

    Args:
        path: The ONNX file.
        device: A lane of the CPU, or a GPU.
        threads: Threads of the pool of a CPU session.
        spinning: Whether idle threads of the pool spin while the graph runs; see `Session`.
        gpu: How to use the device if it is a GPU.

    Raises:
        ModelRejected: The graph does not load, or not on this device alone.
    """
    if device.kind == "cpu":
        return Session(path, device, threads=threads, spinning=spinning)
    return GpuSession(path, device, gpu=gpu)

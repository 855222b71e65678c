"""ONNX Runtime behind a small class: one graph on the CPU.

It sets the threads explicitly and turns ONNX Runtime's errors into ours. It knows nothing of batches or
requests. `service.engine.cuda.gpu_session` does the same on a GPU; `service.engine.devices` chooses.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from service.engine.runtime.device import Device
from service.engine.runtime.memory import ArenaUse, failure_of, first_line, is_out_of_memory
from service.engine.runtime.run import Arrays, RunFailed, Stage
from service.errors import ModelRejected, StartFailed

try:
    import onnxruntime as ort
except ImportError as missing:
    raise StartFailed(
        "onnxruntime is not installed: install the extra for your device, "
        "`pip install 'kotae[cpu]'` or `pip install 'kotae[gpu]'`"
    ) from missing

__all__ = ["Device", "RunFailed", "Session", "TensorSpec", "runtime_version"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}

# Seen with 1.31 on the CPU: the fused kernel of addition and norm takes four times as long as the two by
# themselves, a fifth of an int8 text encoder's time.
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output: its dtype, and its shape with None where an axis is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    return str(ort.__version__)


class Session:
    """One graph loaded on a CPU lane. It is used by one thread at a time.

    Args:
        path: The ONNX file.
        device: The lane of the CPU.
        threads: Threads of ONNX Runtime's pool.
        spinning: Whether idle threads of the pool spin while the graph runs. This pays only while the threads
            of all sessions that run at the same time have a CPU each.

    Attributes:
        inputs: The graph's inputs.
        outputs: The graph's outputs.

    Raises:
        ModelRejected: The file is not a graph that loads.
    """

    kind: ClassVar[str] = "cpu"

    def __init__(self, path: Path, device: Device, *, threads: int = 1, spinning: bool = False) -> None:
        assert device.kind == self.kind, f"{type(self).__name__} does not run on {device}"
        self.device = device
        try:
            self._session = self._open(path, _session_options(threads, spinning=spinning))
        except Exception as error:  # onnxruntime raises many unrelated classes here
            raise ModelRejected(f"{path.name} does not load: {first_line(error)}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        self._arena = ArenaUse()
        self._shrinking = ort.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._arena_devices())

    @property
    def stage(self) -> Stage | None:
        """A function that copies a batch to the device; None where inputs are read in host memory."""
        return None

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Args:
            inputs: Arrays by input name, batch axis first.

        Returns:
            Arrays by output name, batch axis first.

        Raises:
            OutOfMemory: The batch does not fit the device.
            RunFailed: ONNX Runtime raised anything else.
        """
        try:
            return self._run(inputs)
        except Exception as error:  # onnxruntime raises many unrelated classes here
            if is_out_of_memory(error):
                self.shrink(inputs)
            raise failure_of(
                error
            ) from error  # in no variable: a cycle with its traceback would keep the inputs

    def shrink(self, inputs: Arrays) -> None:
        """Release the memory of ONNX Runtime's arena that a run of the first row does not need."""
        self._arena.forget()
        row = {name: array[:1] for name, array in inputs.items()}
        with suppress(Exception):  # the arena shrinks even if the run fails
            self._session.run(self._output_names, row, self._shrinking)

    def _open(self, path: Path, options: Any) -> Any:
        """Return ONNX Runtime's session."""
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER_FUSIONS
        )

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        outputs = self._session.run(self._output_names, dict(inputs), self._run_options(inputs))
        return dict(zip(self._output_names, outputs, strict=True))

    def _run_options(self, inputs: Arrays) -> Any:
        """Return the options of a run on these inputs: now and then the arena shrinks after it."""
        size_bytes = sum(array.nbytes for array in inputs.values())
        return self._shrinking if self._arena.should_shrink(size_bytes) else None

    def _arena_devices(self) -> str:
        """Return the devices whose arenas shrink, as ONNX Runtime names them."""
        return "cpu:0"


def _session_options(threads: int, *, spinning: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")  # never beside another's run
    return options


def _spec(node: Any) -> TensorSpec:
    shape = tuple(axis if isinstance(axis, int) else None for axis in node.shape)
    return TensorSpec(node.name, _DTYPES.get(node.type, node.type), shape)

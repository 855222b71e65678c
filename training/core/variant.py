"""Make a smaller variant of a graph: write it, and find the tolerances of its answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from service.engine.devices import Device, cuda_problem, open_session
from service.repository.golden import Run, read_golden_arrays
from service.repository.manifest import GOLDEN_CASES_FILE, GoldenCases, Variant, read
from service.tasks import Limits, Task, answer_one
from service.tasks.task import Raw
from training.core.fp16 import convert_to_fp16
from training.core.int8 import Batch, quantize_graph
from training.errors import ExportFailed

INT8_FILE = "model.int8.onnx"
FP16_FILE = "model.fp16.onnx"
_LARGEST_ANSWER_DIFFERENCE = 0.25  # of a score; a larger difference is an error
_HALVINGS = 10

Precision = Literal["int8", "fp16"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Properties of a precision.

    Attributes:
        file: File name of the graph.
        device: The kind of device it is made for; on others the graph is right but slow.
        margin: Tolerance as a multiple of the measured difference, for machines that round differently.
    """

    file: str
    device: Literal["cpu", "cuda"]
    margin: float


# A GPU keeps intermediate sums in fp16; a CPU, without fp16 arithmetic, rounds only complete sums.
_KINDS: dict[Precision, _Kind] = {
    "int8": _Kind(INT8_FILE, "cpu", margin=2.0),
    "fp16": _Kind(FP16_FILE, "cuda", margin=4.0),
}


def measuring_device(precision: Precision) -> Device:
    """Return the kind of device that a variant is made for if it is available, else the CPU."""
    kind = _KINDS[precision].device
    return Device("cpu" if kind == "cpu" or cuda_problem() else kind)


def decode_batches(task: Task, items: Sequence[Raw]) -> list[Batch]:
    """Decode raw items as the service does and cut long ones; each part is a batch of one."""
    cut = {"truncate": True} if "truncate" in task.parameters.model_fields else {}
    parameters = task.parameters(**cut)
    return [
        {name: array[np.newaxis] for name, array in part.items()}
        for item in items
        for part in task.decode(item, Limits(), parameters).parts
    ]


def make_variant(
    folder: Path, task: Task, plain: Variant, precision: Precision, batches: Sequence[Batch]
) -> Variant:
    """Write the smaller graph; return its description with tolerances from its answers to the golden inputs.

    Raises:
        ExportFailed: Its answers are too far from those of PyTorch.
    """
    kind, device = _KINDS[precision], measuring_device(precision)
    fp32_operators = None
    if precision == "fp16":
        fp32_operators = convert_to_fp16(folder / plain.file, folder / kind.file)
    else:
        quantize_graph(folder / plain.file, folder / kind.file, batches)
    run = open_session(folder / kind.file, device).run
    inputs, expected = read_golden_arrays(folder)
    tolerance = {}
    for name, difference in task.differences(expected, run(inputs)).items():
        if not math.isfinite(difference):
            raise ExportFailed(f"output {name} of the {precision} graph is another one. Nothing was written")
        tolerance[name] = _rounded_up(max(plain.tolerance[name], difference * kind.margin))
    seen = _largest_answer_difference(folder, task, run, precision)
    return Variant(
        file=kind.file,
        precision=precision,
        devices=(kind.device,),
        tolerance=tolerance,
        answer_tolerance=_rounded_up(max(1e-3, seen * kind.margin)),
        measured_on="cpu" if device.kind == "cpu" else "cuda",
        fp32_operators=fp32_operators,
    )


def _largest_answer_difference(folder: Path, task: Task, run: Run, precision: Precision) -> float:
    """Return the smallest tolerance, found by bisection, with which all golden answers agree.

    Raises:
        ExportFailed: They do not agree with the largest allowed tolerance.
    """
    parameters = task.parameters()
    largest = 0.0
    for case in read(folder / GOLDEN_CASES_FILE, GoldenCases).cases:
        raw = (folder / "golden" / case.file).read_bytes()
        answer = answer_one(task, run, raw, Limits(), parameters)
        if problem := task.agrees(case.answer, answer, _LARGEST_ANSWER_DIFFERENCE):
            raise ExportFailed(
                f"the {precision} graph fails golden/{case.file}: {problem}. Nothing was written"
            )
        low, high = largest, max(largest, _LARGEST_ANSWER_DIFFERENCE)
        if task.agrees(case.answer, answer, low) is None:
            continue
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if task.agrees(case.answer, answer, middle) is None else (middle, high)
        largest = high
    return largest


def _rounded_up(number: float) -> float:
    """Round up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return float(f"{math.ceil(number / unit - 1e-9) * unit:.2g}")

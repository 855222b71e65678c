"""Run an exported version as the service does: from raw items to answers, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel

from service.engine.devices import Device, cuda_problem, open_session
from service.engine.runtime.cpus import available_cpus
from service.engine.runtime.session import Session
from service.repository.golden import Run
from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import Limits, Task
from service.tasks.task import Raw, Result

TaskKind = TypeVar("TaskKind", bound=Task)


def open_first_variant(folder: Path, facts: VersionFacts) -> Session:
    """Load the first variant of a version.

    Args:
        folder: The version's folder.
        facts: The version's facts.

    Returns:
        A session on the GPU if the variant was measured on one and a GPU is available, else on the CPU.
    """
    variant = facts.variants[0]
    on_gpu = variant.measured_on == "cuda" and not cuda_problem()
    return open_session(folder / variant.file, Device("cuda" if on_gpu else "cpu"), threads=available_cpus())


def open_version(
    folder: Path, kind: type[TaskKind], facts: VersionFacts | None = None
) -> tuple[TaskKind, Run]:
    """Load an exported version.

    Args:
        folder: The version's folder.
        kind: The class of its task.
        facts: The version's facts; None reads them from the folder.

    Returns:
        The task bound to the version, and the function that runs its graph on a batch.
    """
    facts = facts or read(folder / VERSION_FILE, VersionFacts)
    return kind(folder, facts), open_first_variant(folder, facts).run


def answer_batches(
    task: Task, run: Run, items: Sequence[Raw], parameters: BaseModel, batch_size: int
) -> list[Result]:
    """Answer raw items whose inputs all have one shape.

    Args:
        task: The task bound to the version.
        run: Runs the graph on a batch.
        items: Raw items.
        parameters: Parameters of the task's class.
        batch_size: Items of a batch.

    Returns:
        One result per item, in order.
    """
    results = []
    for start in range(0, len(items), batch_size):
        decoded = [task.decode(item, Limits(), parameters) for item in items[start : start + batch_size]]
        inputs = {name: np.stack([item.parts[0][name] for item in decoded]) for name in task.inputs}
        outputs = run(inputs)
        for row, item in enumerate(decoded):
            part = {name: array[row] for name, array in outputs.items()}
            results.append(task.answer([part], item, parameters))
    return results

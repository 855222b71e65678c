"""Answers to raw texts as a client gets them: `service.tasks`, ONNX Runtime, `service.tasks` again.

Texts of like length share a batch, which changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from service.repository.manifest import TaskName, VersionFacts
from service.tasks import TASKS, Limits, Task
from service.tasks.task import Result
from training.core.session import open_graph
from training.text.tokens import pad

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
_MOST_COST = 16384  # padded tokens of a batch
_MOST_ITEMS = 64


def open_version(folder: Path, task: TaskName, facts: VersionFacts) -> tuple[Task, Run]:
    """Load an exported version.

    Returns:
        The task bound to it, and what runs its graph on a batch.
    """
    session = open_graph(folder, facts)
    return TASKS[task](folder, facts), session.run


def answer_texts(task: Task, run: Run, texts: Sequence[str], parameters: BaseModel) -> list[Result]:
    """Answer every text.

    Args:
        task: Bound to a version.
        run: Runs the graph on a batch.
        texts: Raw texts.
        parameters: Of the task's class.

    Returns:
        One result a text, in the order they came.
    """
    decoded = [task.decode(text, Limits(), parameters) for text in texts]
    results: dict[int, Result] = {}
    for members in batches_by_cost([item.costs[0] for item in decoded]):
        ids, mask = pad([decoded[i].parts[0]["input_ids"] for i in members])
        outputs = run({"input_ids": ids, "attention_mask": mask})
        for row, i in enumerate(members):
            parts = [{name: array[row] for name, array in outputs.items()}]
            results[i] = task.answer(parts, decoded[i], parameters)
    return [results[i] for i in range(len(texts))]


def batches_by_cost(costs: Sequence[int]) -> Iterator[list[int]]:
    """Put items of like cost together, within the limits of a batch."""
    members: list[int] = []
    for i in np.argsort(costs, kind="stable").tolist():
        if members and (len(members) == _MOST_ITEMS or (len(members) + 1) * costs[i] > _MOST_COST):
            yield members
            members = []
        members.append(i)
    if members:
        yield members

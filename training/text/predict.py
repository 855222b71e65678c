"""Answer raw texts with an exported version, as a client gets the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel

from service.repository.golden import Run
from service.tasks import Limits, Task
from service.tasks.task import Result
from training.text.tokens import pad

_MOST_COST = 16384  # padded tokens of a batch
_MOST_ITEMS = 64


def answer_texts(task: Task, run: Run, texts: Sequence[str], parameters: BaseModel) -> list[Result]:
    """Answer every text; texts of similar length share a batch, which changes no answer.

    Args:
        task: The task bound to a version.
        run: Runs the graph on a batch.
        texts: Raw texts.
        parameters: Parameters of the task's class.

    Returns:
        One result per text, in order.
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
    """Yield batches of items of similar cost, within the limits of a batch."""
    members: list[int] = []
    for i in np.argsort(costs, kind="stable").tolist():
        if members and (len(members) == _MOST_ITEMS or (len(members) + 1) * costs[i] > _MOST_COST):
            yield members
            members = []
        members.append(i)
    if members:
        yield members

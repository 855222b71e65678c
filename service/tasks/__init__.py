"""What a task means: bytes or text -> arrays before the queue, arrays -> an answer after it.

Pure functions and small immutable objects, without HTTP, queues or sessions, so that training and
evaluation run exactly what serving runs. One module a kind of input; `TASKS` is the list of them.
"""

from collections.abc import Mapping

from service.tasks.image import ImageClassification
from service.tasks.task import Decoded, Limits, Task, answer_one

__all__ = ["TASKS", "Decoded", "Limits", "Task", "answer_one"]

TASKS: Mapping[str, type[Task]] = {task.name: task for task in (ImageClassification,)}

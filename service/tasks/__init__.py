"""What a task means: bytes or text -> arrays before the queue, arrays -> an answer after it.

Pure functions and small immutable objects, without HTTP, queues or sessions, so that training and
evaluation run exactly what serving runs. One module a kind of input; `TASKS` is the list of them.
"""

from collections.abc import Mapping

from service.tasks.audio.classification import AudioClassification
from service.tasks.audio.speech_recognition import SpeechRecognition
from service.tasks.image.detection import ObjectDetection
from service.tasks.image.preprocessing import ImageClassification
from service.tasks.task import Decoded, Limits, Task, answer_one
from service.tasks.text.text import TextClassification, TextEmbedding

__all__ = ["TASKS", "Decoded", "Limits", "Task", "answer_one"]

TASKS: Mapping[str, type[Task]] = {
    ImageClassification.name: ImageClassification,
    ObjectDetection.name: ObjectDetection,
    SpeechRecognition.name: SpeechRecognition,
    AudioClassification.name: AudioClassification,
    TextClassification.name: TextClassification,
    TextEmbedding.name: TextEmbedding,
}

"""The tasks. `TASKS` is the list of them; each task is one module.

A task decodes a raw item (bytes or text) into the graph's inputs before the queue, and turns the graph's
outputs into an answer after it. Tasks know nothing of HTTP, queues or sessions, so training and evaluation
run the same code as serving.
"""

from collections.abc import Mapping

from service.tasks.audio.classification import AudioClassification
from service.tasks.audio.speech_recognition import SpeechRecognition
from service.tasks.image.classification import ImageClassification
from service.tasks.image.detection import ObjectDetection
from service.tasks.task import Decoded, Limits, Task, answer_one
from service.tasks.text.classification import TextClassification
from service.tasks.text.embedding import TextEmbedding

__all__ = ["TASKS", "Decoded", "Limits", "Task", "answer_one"]

TASKS: Mapping[str, type[Task]] = {
    ImageClassification.name: ImageClassification,
    ObjectDetection.name: ObjectDetection,
    SpeechRecognition.name: SpeechRecognition,
    AudioClassification.name: AudioClassification,
    TextClassification.name: TextClassification,
    TextEmbedding.name: TextEmbedding,
}

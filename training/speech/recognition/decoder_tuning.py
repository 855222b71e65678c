"""Choosing how much a language model and a word count, on the validation part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.repository.manifest import Transcription, VersionFacts
from service.tasks.audio.speech_recognition import SpeechRecognition
from training.speech.dataset import SpokenFile
from training.speech.export import Run
from training.speech.recognition.metrics import Errors, errors_of
from training.speech.recognition.predict import Listened, listen, transcript_of

_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # of the language model's log10 probability
_SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0)


def tuned(folder: Path, draft: VersionFacts, run: Run, files: Sequence[SpokenFile]) -> Transcription:
    """Choose the weight of the language model first, then the score of a word.

    Args:
        folder: The version's folder.
        draft: What its facts will say, for now.
        run: The network.
        files: To choose on.

    Returns:
        The version's search, as it was but for those two.
    """
    start = draft.transcription
    assert start is not None, "a speech model has a transcription"
    if start.words is None:
        return start
    task = SpeechRecognition(folder, draft)
    heard = [(file, listen(task, run, file.content)) for file in files]
    weights = _WEIGHTS if start.language_model else (0.0,)
    tried = [start.model_copy(update={"language_model_weight": weight}) for weight in weights]
    best = min(tried, key=lambda search: _rate(task.weighted(search), heard))
    tried = [best.model_copy(update={"word_score": score}) for score in _SCORES]
    # Of those alike, the one that does least.
    return min(tried, key=lambda search: (_rate(task.weighted(search), heard), abs(search.word_score)))


def _rate(task: SpeechRecognition, heard: Sequence[tuple[SpokenFile, Listened]]) -> float:
    errors = Errors()
    for file, listened in heard:
        errors = errors.plus(errors_of(file.text, transcript_of(task, listened)["text"])[0])
    return errors.rate

"""Choose the weights of language model and words on the validation part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.repository.golden import Run
from service.repository.manifest import Transcription, VersionFacts
from service.tasks.audio.speech_recognition import SpeechRecognition
from training.speech.dataset import SpeechFile
from training.speech.recognition.metrics import Errors, count_errors
from training.speech.recognition.predict import Encoded, encode, transcript_of

_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # of the language model's log10 probability
_SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0)


def tune_decoder(folder: Path, draft: VersionFacts, run: Run, files: Sequence[SpeechFile]) -> Transcription:
    """Choose the weight of the language model, then the score of a word.

    Args:
        folder: The version's folder.
        draft: The version's facts so far.
        run: Runs the network.
        files: The validation part.

    Returns:
        The settings of the search with the two chosen values.
    """
    start = draft.transcription
    assert start is not None, "a speech model has a transcription"
    if start.words is None:
        return start
    task = SpeechRecognition(folder, draft)
    encoded = [(file, encode(task, run, file.content)) for file in files]
    weights = _WEIGHTS if start.language_model else (0.0,)
    tried = [start.model_copy(update={"language_model_weight": weight}) for weight in weights]
    best = min(tried, key=lambda search: _error_rate(task.with_weights(search), encoded))
    tried = [best.model_copy(update={"word_score": score}) for score in _SCORES]
    # Among equal error rates, prefer the smallest score.
    return min(tried, key=lambda one: (_error_rate(task.with_weights(one), encoded), abs(one.word_score)))


def _error_rate(task: SpeechRecognition, files: Sequence[tuple[SpeechFile, Encoded]]) -> float:
    errors = Errors()
    for file, encoded in files:
        errors = errors.plus(count_errors(file.text, transcript_of(task, encoded)["text"])[0])
    return errors.rate

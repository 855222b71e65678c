"""The steps of a recipe for speech recognition."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from service.repository.manifest import Baseline, Provenance, VersionFacts
from training.core.card import CardText
from training.core.fit import TrainingSetup
from training.core.version_folder import baseline_of
from training.recipes.speech_recipe import SpeechRecipe
from training.speech.dataset import SpeechSource
from training.speech.recognition.fit import set_up_training
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.metrics import SpeechMetrics, measure, version_metrics
from training.speech.recognition.predict import predict_with_version
from training.speech.recognition.tables import speech_tables
from training.speech.recognition.version import write_version
from training.speech.steps import SoundSteps

_MEASURED = """\
Measured on held-out recordings, from raw file to answer with ONNX Runtime. The word error rate is the
number of wrong, missing and added words, divided by the number of spoken words. "Letter by letter" is the
word error rate without word list and language model."""


class SpeechSteps(SoundSteps[SpeechRecipe, SpeechLearner, SpeechMetrics]):
    """The commands of a recipe for speech recognition."""

    learner_class = SpeechLearner
    card_text = CardText(_MEASURED)

    def set_up(self, data: SpeechSource) -> TrainingSetup:
        """Return network and batches."""
        return set_up_training(self.job.recipe, data)

    def write_files(
        self, folder: Path, learner: SpeechLearner, data: SpeechSource, provenance: Provenance
    ) -> VersionFacts:
        """Write the files of a version."""
        return write_version(folder, learner, data, provenance)

    def measure(self, folder: Path, facts: VersionFacts, data: SpeechSource) -> SpeechMetrics:
        """Evaluate a version."""
        files = data.held_out_files()
        return measure(list(zip(files, predict_with_version(folder, files, facts), strict=True)))

    def metrics(self, evaluation: SpeechMetrics) -> dict[str, float]:
        """Return the metrics for `version.yaml`."""
        return version_metrics(evaluation)

    def counts(self, evaluation: SpeechMetrics) -> dict[str, float]:
        """Return how many files and words were measured."""
        found = evaluation.whole.searched
        return {"held_out_items": float(found.files), "held_out_words": float(found.words)}

    def baseline(self, evaluation: SpeechMetrics) -> Baseline:
        """Return the distribution of the words' confidence."""
        return baseline_of(evaluation.confidences)

    def tables(self, evaluation: SpeechMetrics) -> str:
        """Return the metrics for terminal and model card."""
        return speech_tables(evaluation)

    def guarded_metrics(self, data: SpeechSource) -> Mapping[str, bool]:
        """Return the metrics that a smaller variant must keep; lower is better."""
        return {"word_error_rate": False, "greedy_word_error_rate": False}

"""The steps of a recipe for keyword classification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from service.repository.manifest import Baseline, Provenance, VersionFacts
from service.tasks.classification import read_labels
from training.core.card import CardText
from training.core.fit import TrainingSetup
from training.core.version_folder import baseline_of
from training.recipes.speech_recipe import KeywordsRecipe
from training.speech.dataset import SpeechSource
from training.speech.keywords.fit import set_up_training
from training.speech.keywords.learner import KeywordLearner
from training.speech.keywords.metrics import KeywordMetrics, measure_keywords, version_metrics
from training.speech.keywords.predict import predict_with_version
from training.speech.keywords.tables import keyword_tables
from training.speech.keywords.version import write_version
from training.speech.steps import SoundSteps

_MEASURED = "Measured on held-out recordings, from raw file to answer with ONNX Runtime."
_LIMITS = "## Limits\n\nEvery recording gets one of the labels, also a recording of something else."


class KeywordSteps(SoundSteps[KeywordsRecipe, KeywordLearner, KeywordMetrics]):
    """The commands of a recipe for keyword classification."""

    learner_class = KeywordLearner
    card_text = CardText(_MEASURED, after=_LIMITS)

    def set_up(self, data: SpeechSource) -> TrainingSetup:
        """Return network and batches."""
        return set_up_training(self.job.recipe, data)

    def write_files(
        self, folder: Path, learner: KeywordLearner, data: SpeechSource, provenance: Provenance
    ) -> VersionFacts:
        """Write the files of a version."""
        return write_version(folder, learner, data, provenance)

    def measure(self, folder: Path, facts: VersionFacts, data: SpeechSource) -> KeywordMetrics:
        """Evaluate a version."""
        predictions = predict_with_version(folder, data.held_out_files(), facts)
        return measure_keywords(predictions, read_labels(folder, facts))

    def metrics(self, evaluation: KeywordMetrics) -> dict[str, float]:
        """Return the metrics for `version.yaml`."""
        return version_metrics(evaluation)

    def counts(self, evaluation: KeywordMetrics) -> dict[str, float]:
        """Return how many files were measured."""
        return {"held_out_items": float(evaluation.whole.files)}

    def baseline(self, evaluation: KeywordMetrics) -> Baseline:
        """Return the distribution of the answers."""
        return baseline_of(evaluation.confidences, evaluation.class_mix)

    def tables(self, evaluation: KeywordMetrics) -> str:
        """Return the metrics for terminal and model card."""
        return keyword_tables(evaluation)

    def guarded_metrics(self, data: SpeechSource) -> Mapping[str, bool]:
        """Return the metrics that a smaller variant must keep."""
        return {"accuracy": True, "macro_f1": True}

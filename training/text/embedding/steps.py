"""The steps of a recipe for text embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from service.repository.manifest import Baseline, Provenance, VersionFacts
from service.tasks.task import Raw
from training.core.fit import TrainingSetup
from training.core.quantize import CALIBRATION_ITEMS
from training.recipes.text_recipe import TextEmbeddingRecipe
from training.text.embedding.fit import set_up_training
from training.text.embedding.golden import choose_golden_pairs
from training.text.embedding.learner import TextEncoderLearner
from training.text.embedding.metrics import RetrievalEvaluation, evaluate_pairs
from training.text.embedding.pairs import PairData, open_pairs
from training.text.embedding.tables import pair_tables
from training.text.steps import TextSteps
from training.text.version import TextModel, write_version


class TextEmbeddingSteps(TextSteps[TextEmbeddingRecipe, PairData, TextEncoderLearner, RetrievalEvaluation]):
    """The commands of a recipe for text embedding."""

    learner_class = TextEncoderLearner

    def open(self) -> PairData:
        """Read the pairs and divide them."""
        return open_pairs(self.job.recipe)

    def set_up(self, data: PairData) -> TrainingSetup:
        """Return network and batches."""
        return set_up_training(self.job.recipe, data)

    def write_files(
        self, folder: Path, learner: TextEncoderLearner, data: PairData, provenance: Provenance
    ) -> VersionFacts:
        """Write the files of a version."""
        recipe, network = self.job.recipe, learner.graph.quantise().eval()
        model = TextModel(recipe.manifest, recipe.input, network, Tokenizer.from_str(learner.tokenizer))
        return write_version(folder, model, choose_golden_pairs(model, data), provenance)

    def measure(self, folder: Path, facts: VersionFacts, data: PairData) -> RetrievalEvaluation:
        """Evaluate a version."""
        return evaluate_pairs(folder, facts, data, self.job.recipe)

    def metrics(self, evaluation: RetrievalEvaluation) -> dict[str, float]:
        """Return the metrics for `version.yaml`."""
        metrics: dict[str, float] = {}
        for size, found in evaluation.by_dimensions.items():
            end = "" if size == evaluation.dimensions else f"_first{size}"
            metrics |= {f"recall_at_1{end}": found.at_1, f"recall_at_10{end}": found.at_10}
        for kind, found in zip(("word", "char"), evaluation.baselines.values(), strict=True):
            metrics |= {f"{kind}_tfidf_recall_at_1": found.at_1, f"{kind}_tfidf_recall_at_10": found.at_10}
        return metrics

    def counts(self, evaluation: RetrievalEvaluation) -> dict[str, float]:
        """Return how many queries were measured."""
        return {"held_out_items": float(evaluation.by_dimensions[evaluation.dimensions].items)}

    def baseline(self, evaluation: RetrievalEvaluation) -> Baseline:
        """Return nothing: vectors have no scores."""
        return Baseline()

    def tables(self, evaluation: RetrievalEvaluation) -> str:
        """Return the metrics for terminal and model card."""
        return pair_tables(evaluation)

    def calibration_items(self, data: PairData) -> Sequence[Raw]:
        """Return validation queries and documents, evenly chosen."""
        table, part = data.table, data.parts.validation.tolist()
        chosen = part[:: max(1, 2 * len(part) // CALIBRATION_ITEMS)]
        return [text for i in chosen for text in (table.queries[i], table.documents[i])]

    def guarded_metrics(self, data: PairData) -> Mapping[str, bool]:
        """Return the metrics that a smaller variant must keep."""
        return {"recall_at_1": True, "recall_at_10": True}

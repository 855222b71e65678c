"""The commands of a recipe that finds texts by texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.repository.manifest import VERSION_FILE, Baseline, GoldenCase, VersionFacts, write
from training.core.card import write_card
from training.core.quantize import CALIBRATION_ITEMS, Subject
from training.core.steps import CommonSteps
from training.core.trainer import load_learner
from training.core.version_folder import Place, publish, with_figures
from training.recipes.text_recipes import TextEmbeddingRecipe
from training.text.embedding.fit import fit_pairs
from training.text.embedding.learner import PairLearner
from training.text.embedding.metrics import PairEvaluation, evaluate_pairs
from training.text.embedding.pairs import PairData, open_pairs
from training.text.embedding.tables import pair_tables
from training.text.tokens import pad
from training.text.version import (
    TEXT_CARD,
    GoldenText,
    TextModel,
    network_answers,
    write_files,
)

_GOLDEN_PAIRS = 3
_LONGEST_GOLDEN = 400  # characters
_DIGITS = 5  # of a number of a golden answer
_TOLERANCE = 1e-3


class PairSteps(CommonSteps[TextEmbeddingRecipe, PairData]):
    """What the command line can ask of a recipe for finding texts."""

    def open(self) -> PairData:
        """Read the pairs and divide them."""
        return open_pairs(self.job.recipe)

    def describe(self, data: PairData) -> str:
        """Say what there is to learn from."""
        return f"{data.table.description}\n{data.parts.description}"

    def train(self, data: PairData, *, resume: bool) -> Path:
        """Train; returns the best checkpoint."""
        return fit_pairs(self.job.recipe, data, self.job.run, self.job.console, resume=resume)

    def measure(self, folder: Path, facts: VersionFacts, data: PairData) -> str:
        """Measure a version; returns its figures as Markdown."""
        return pair_tables(evaluate_pairs(folder, facts, data, self.job.recipe))

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        recipe = self.job.recipe
        data = self.open()
        table, part = data.table, data.parts.validation.tolist()
        chosen = part[:: max(1, 2 * len(part) // CALIBRATION_ITEMS)]

        def measure(folder: Path, facts: VersionFacts) -> dict[str, float]:
            return _figures(evaluate_pairs(folder, facts, data, recipe))

        items = [text for i in chosen for text in (table.queries[i], table.documents[i])]
        return Subject(items, measure, dict.fromkeys(("recall_at_1", "recall_at_10"), True))

    def publish(self, checkpoint: Path, data: PairData, place: Place) -> tuple[Path, str]:
        """Export a checkpoint and write the card; returns the version's folder and its figures."""
        learner = load_learner(checkpoint, PairLearner)
        recipe = self.job.recipe
        model = TextModel(
            recipe.manifest,
            recipe.input,
            learner.graph.quantise().eval(),
            Tokenizer.from_str(learner.tokenizer),
            self.job.provenance(data.table.description, learner.recipe.seed),
        )

        def fill(folder: Path) -> tuple[VersionFacts, PairEvaluation]:
            draft = write_files(folder, model, choose_golden_pairs(model, data))
            evaluation = evaluate_pairs(folder, draft, data, recipe)
            facts = _facts(draft, evaluation, recipe)
            write(folder / VERSION_FILE, facts)
            return facts, evaluation

        folder, evaluation = publish(recipe.manifest, place, fill)
        tables = pair_tables(evaluation)
        write_card(folder, recipe, tables, TEXT_CARD)
        return folder, tables


def choose_golden_pairs(model: TextModel, data: PairData) -> list[GoldenText]:
    """Choose a few short pairs of the validation part, of different groups."""
    table = data.table
    short = [i for i in data.parts.validation.tolist() if len(table.documents[i]) <= _LONGEST_GOLDEN]
    first = {table.groups[i]: i for i in reversed(short or data.parts.validation.tolist())}
    texts = [
        (f"{number:02d}-{kind}.txt", text)
        for number, i in enumerate(list(first.values())[:_GOLDEN_PAIRS], start=1)
        for kind, text in (("query", table.queries[i]), ("document", table.documents[i]))
    ]
    ids, mask = pad(
        [row.ids for row in model.tokenizer.encode_batch([text for _, text in texts])], model.input.max_tokens
    )
    vectors = network_answers(model.network, ids, mask)
    return [
        (GoldenCase(file=name, answer={"embedding": _rounded(vector)}, tolerance=_TOLERANCE), text)
        for (name, text), vector in zip(texts, vectors, strict=True)
    ]


def _rounded(vector: NDArray[np.float32]) -> list[float]:
    return [round(float(x), _DIGITS) for x in vector]


def _figures(evaluation: PairEvaluation) -> dict[str, float]:
    figures: dict[str, float] = {}
    for size, found in evaluation.by_dimensions.items():
        end = "" if size == evaluation.dimensions else f"_first{size}"
        figures |= {f"recall_at_1{end}": found.at_1, f"recall_at_10{end}": found.at_10}
    words, characters = evaluation.baselines.values()
    figures |= {"word_tfidf_recall_at_1": words.at_1, "word_tfidf_recall_at_10": words.at_10}
    figures |= {"char_tfidf_recall_at_1": characters.at_1, "char_tfidf_recall_at_10": characters.at_10}
    return figures


def _facts(draft: VersionFacts, evaluation: PairEvaluation, recipe: TextEmbeddingRecipe) -> VersionFacts:
    kept = "by group" if recipe.data.group else "pair by pair"
    counts: dict[str, float | str] = {
        "held_out_items": float(recipe.candidates),
        "split": f"{kept}, {recipe.split.test:.1%} for testing, seed {recipe.split.seed}",
    }
    return with_figures(draft, _figures(evaluation), counts, Baseline())

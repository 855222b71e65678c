"""A version of a classifier of short sounds: graph, labels, golden arrays and sounds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from service.repository.manifest import VERSION_FILE, Baseline, Provenance, Variant, VersionFacts, write
from service.tasks.audio.classification import AudioClassification
from training.core.export import TOLERANCE, differences
from training.core.version_folder import (
    GRAPH_FILE,
    LABELS_FILE,
    hashes,
    quantiles,
    with_figures,
    write_golden_files,
)
from training.recipes.speech_recipes import KeywordsRecipe
from training.speech.dataset import SpeechSource
from training.speech.export import Arrays, run_by_torch, write_sound_graph
from training.speech.keywords.golden import choose_golden_sounds
from training.speech.keywords.learner import KeywordLearner
from training.speech.keywords.metrics import KeywordFigures, measure_keywords, rates
from training.speech.keywords.predict import heard_by_version


def fill_version(
    folder: Path,
    learner: KeywordLearner,
    recipe: KeywordsRecipe,
    source: SpeechSource,
    provenance: Provenance,
) -> tuple[VersionFacts, KeywordFigures]:
    """Write every file of a version, `version.yaml` last.

    Args:
        folder: Where to.
        learner: The trained network.
        recipe: What was done.
        source: Its validation part gives the golden files, its held-out part the figures.
        provenance: Where the version comes from.

    Raises:
        ExportFailed: The graph does not answer what PyTorch answers, or nothing rightly.
    """
    network = learner.eval().graph
    (folder / LABELS_FILE).write_text("\n".join(learner.classes) + "\n", encoding="utf-8")
    validation, held_out = source.validation_files(), source.held_out_files()
    write_sound_graph(folder, network, recipe, validation, difference)
    draft = VersionFacts(
        created=datetime.now(UTC).replace(microsecond=0),
        provenance=provenance,
        input=recipe.input,
        labels=LABELS_FILE,
        variants=(Variant(file=GRAPH_FILE, tolerance={"probabilities": TOLERANCE}),),
        files=hashes(folder),
    )
    task = AudioClassification(folder, draft)
    by_torch = run_by_torch(network, recipe.manifest.task)
    write_golden_files(folder, choose_golden_sounds(task, by_torch, validation))
    draft = draft.model_copy(update={"files": hashes(folder)})
    figures = measure_keywords(heard_by_version(folder, held_out, draft), learner.classes)
    counts: dict[str, float | str] = {"held_out_items": float(figures.whole.files), "split": source.split}
    confidences = np.array(figures.confidences)
    baseline = Baseline(
        class_mix={name: round(share, 4) for name, share in figures.class_mix.items()},
        confidence=quantiles(confidences) if confidences.size else {},
    )
    facts = with_figures(draft, rates(figures), counts, baseline)
    write(folder / VERSION_FILE, facts)
    return facts, figures


def difference(expected: Arrays, got: Arrays, where: str) -> float:
    """Give the largest absolute difference of a probability; see `training.core.export.differences`."""
    return max(differences(expected, got, where).values())

"""A version of a classifier of short sounds: graph, labels, golden arrays and sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.session import Device, Session
from service.golden import write_golden_arrays
from service.manifest import VERSION_FILE, Baseline, Provenance, Variant, VersionFacts, write
from service.tasks.audio import AudioClassification
from training.export import EXPORT_BATCH, PARITY_BATCHES, TOLERANCE, differences, write_graph
from training.networks.sound_classifier import SoundClassifier
from training.recipes.speech_recipes import KeywordsRecipe
from training.speech.keywords.answers import heard_by_version, run_by_torch
from training.speech.keywords.figures import KeywordFigures, measure_keywords, rates
from training.speech.keywords.golden import choose_golden_sounds, write_golden_sounds
from training.speech.keywords.learner import KeywordLearner
from training.speech.recognition.answers import Run
from training.speech.recognition.golden import golden_sounds, stacked
from training.speech.sounds import decoded
from training.speech.utterances import SpokenFile
from training.version_folder import GRAPH_FILE, LABELS_FILE, hashes, quantiles

_REAL_SOUNDS = 2  # in the golden arrays
_EXPORT_SECONDS = 1.0
_EXTRA_SECONDS = (0.0, 0.37, 1.1)  # of nothing but padding, one number a parity batch


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version is made from and judged by.

    Attributes:
        validation: Raw files of which some are published with the model.
        held_out: The test part's raw files.
        split: Name of the split, for the metrics.
    """

    provenance: Provenance
    validation: Sequence[SpokenFile]
    held_out: Sequence[SpokenFile]
    split: str


def fill_version(
    folder: Path, learner: KeywordLearner, recipe: KeywordsRecipe, origin: Origin
) -> tuple[VersionFacts, KeywordFigures]:
    """Write every file of a version, `version.yaml` last.

    Raises:
        ExportFailed: The graph does not answer what PyTorch answers.
    """
    network, spec = learner.eval().graph, recipe.input
    (folder / LABELS_FILE).write_text("\n".join(learner.classes) + "\n", encoding="utf-8")
    export_sounds(network, spec.sample_rate, folder / GRAPH_FILE)
    sounds = [decoded(file.content, spec) for file in origin.validation[: max(PARITY_BATCHES)]]
    session = Session(folder / GRAPH_FILE, Device("cpu"))
    check_sound_parity(network, session.run, sounds, spec.sample_rate)
    by_torch = run_by_torch(network)
    arrays = golden_sounds(sorted(sounds, key=len)[:_REAL_SOUNDS], spec.sample_rate)
    write_golden_arrays(folder, arrays, by_torch(arrays))
    draft = VersionFacts(
        created=datetime.now(UTC).replace(microsecond=0),
        provenance=origin.provenance,
        input=spec,
        labels=LABELS_FILE,
        variants=(Variant(file=GRAPH_FILE, tolerance={"probabilities": TOLERANCE}),),
        files=hashes(folder),
    )
    task = AudioClassification(folder, draft)
    write_golden_sounds(folder, choose_golden_sounds(task, by_torch, origin.validation))
    draft = draft.model_copy(update={"files": hashes(folder)})
    figures = measure_keywords(heard_by_version(folder, origin.held_out, draft), learner.classes)
    facts = _with_figures(draft, figures, origin.split)
    write(folder / VERSION_FILE, facts)
    return facts, figures


def export_sounds(network: SoundClassifier, sample_rate: int, path: Path) -> None:
    """Write the whole network, samples to probabilities, as one ONNX file with both axes dynamic."""
    samples = round(_EXPORT_SECONDS * sample_rate)
    examples = (torch.zeros(EXPORT_BATCH, samples), torch.full((EXPORT_BATCH,), samples))
    items, length = torch.export.Dim("N", min=1), torch.export.Dim("T", min=1)
    write_graph(network, "audio-classification", examples, ({0: items, 1: length}, {0: items}), path)


def check_sound_parity(
    network: SoundClassifier, run: Run, sounds: Sequence[NDArray[np.int16]], sample_rate: int
) -> float:
    """Compare ONNX Runtime with PyTorch at several batch sizes and lengths, none the exporting ones.

    Args:
        network: In evaluation mode.
        run: The exported graph.
        sounds: i16 [T] each, taken round and round for larger batches.
        sample_rate: Samples a second.

    Returns:
        The largest absolute difference of a probability.

    Raises:
        ExportFailed: The outputs differ by more than the tolerance, or have another shape.
    """
    worst = 0.0
    for size, extra in zip(PARITY_BATCHES, _EXTRA_SECONDS, strict=True):
        rows = [sounds[place % len(sounds)] for place in range(size)]
        inputs = stacked(rows, padding=round(extra * sample_rate))
        found = differences(run_by_torch(network)(inputs), run(inputs), f"batch size {size}")
        worst = max(worst, *found.values())
    return worst


def _with_figures(draft: VersionFacts, figures: KeywordFigures, split: str) -> VersionFacts:
    numbers = {name: round(value, 5) for name, value in rates(figures).items()}
    counts: dict[str, float | str] = {"held_out_items": float(figures.whole.files), "split": split}
    confidences = np.array(figures.confidences)
    baseline = Baseline(
        class_mix={name: round(share, 4) for name, share in figures.class_mix.items()},
        confidence=quantiles(confidences) if confidences.size else {},
    )
    return draft.model_copy(
        update={
            "variants": (draft.variants[0].model_copy(update={"metrics": numbers}),),
            "metrics": numbers | counts,
            "baseline": baseline,
        }
    )

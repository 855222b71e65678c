"""The files of a keyword classifier's version."""

from __future__ import annotations

from pathlib import Path

from service.repository.manifest import Provenance, VersionFacts
from service.tasks.audio.classification import AudioClassification
from training.core.export import TOLERANCE, export_network, torch_run
from training.core.version_folder import LABELS_FILE, draft_facts, write_golden_files, write_labels
from training.speech.dataset import SpeechSource
from training.speech.export import export_inputs
from training.speech.keywords.golden import choose_golden_sounds
from training.speech.keywords.learner import KeywordLearner


def write_version(
    folder: Path, learner: KeywordLearner, source: SpeechSource, provenance: Provenance
) -> VersionFacts:
    """Write every file of a version but `version.yaml`; return its content without metrics.

    Raises:
        ExportFailed: The graph does not answer as PyTorch does, or no answer is right.
    """
    network, recipe = learner.eval().graph, learner.recipe
    task, files = recipe.manifest.task, source.validation_files()
    write_labels(folder, learner.labels)
    export_network(folder, network, task, export_inputs(files, recipe.input))
    draft = draft_facts(
        folder, provenance, {"probabilities": TOLERANCE}, input=recipe.input, labels=LABELS_FILE
    )
    golden = choose_golden_sounds(AudioClassification(folder, draft), torch_run(network, task), files)
    write_golden_files(folder, golden)
    return draft

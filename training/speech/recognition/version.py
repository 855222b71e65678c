"""The files of a speech model's version, with word list and language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from service.repository.manifest import Provenance, Transcription, VersionFacts
from service.tasks.audio.speech_recognition import SpeechRecognition
from training.core.export import Arrays, export_network, torch_run
from training.core.version_folder import draft_facts, write_golden_files
from training.errors import ExportFailed
from training.recipes.speech_recipe import WordSearch
from training.speech.dataset import SpeechSource
from training.speech.export import export_inputs
from training.speech.recognition.decoder_tuning import tune_decoder
from training.speech.recognition.golden import choose_golden_speech
from training.speech.recognition.language_model import arpa, word_list
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.tokens import normalize_text

TOKENS_FILE, WORDS_FILE, MODEL_FILE = "tokens.txt", "words.txt", "words.arpa"
TOLERANCES = {"log_probs": 5e-3, "frames": 0.5}  # improbable letters, at -15, differ most


def write_version(
    folder: Path, learner: SpeechLearner, source: SpeechSource, provenance: Provenance
) -> VersionFacts:
    """Write every file of a version but `version.yaml`; return its content without metrics.

    Raises:
        ExportFailed: The graph does not answer as PyTorch does, or the network finds no word.
    """
    network, recipe = learner.eval().graph, learner.recipe
    task, files = recipe.manifest.task, source.validation_files()
    (folder / TOKENS_FILE).write_text("\n".join(learner.labels) + "\n", encoding="utf-8")
    write_words(folder, source.training_set().texts, recipe.search)
    run = export_network(folder, network, task, export_inputs(files, recipe.input), compare_log_probs)
    search = transcription_of(network.frame_seconds, recipe.search)
    draft = draft_facts(folder, provenance, TOLERANCES, input=recipe.input, transcription=search)
    draft = draft.model_copy(update={"transcription": tune_decoder(folder, draft, run, files)})
    golden = choose_golden_speech(SpeechRecognition(folder, draft), torch_run(network, task), files)
    write_golden_files(folder, golden)
    return draft


def write_words(folder: Path, transcripts: Sequence[str], search: WordSearch | None) -> None:
    """Write word list and language model, if the recipe asks for them."""
    if search is None:
        return
    texts = [normalize_text(text) for text in transcripts]
    (folder / WORDS_FILE).write_text("\n".join(word_list(texts)) + "\n", encoding="utf-8")
    if search.order:
        (folder / MODEL_FILE).write_text(arpa(texts, search.order), encoding="utf-8")


def transcription_of(frame_seconds: float, search: WordSearch | None) -> Transcription:
    """Return the settings of the search for words, before its weights are chosen."""
    if search is None:
        return Transcription(tokens=TOKENS_FILE, frame_seconds=frame_seconds)
    return Transcription(
        tokens=TOKENS_FILE,
        frame_seconds=frame_seconds,
        words=WORDS_FILE,
        language_model=MODEL_FILE if search.order else None,
        beam_size=search.beam_size,
        language_model_weight=1.0 if search.order else 0.0,
    )


def compare_log_probs(expected: Arrays, got: Arrays, where: str) -> float:
    """Compare a graph's outputs with PyTorch's, without the frames of padding.

    Args:
        expected: PyTorch's `log_probs` f32 [N, F, V] and `frames` i64 [N].
        got: The graph's.
        where: Name of the batch, for error messages.

    Returns:
        The largest absolute difference of a log probability.

    Raises:
        ExportFailed: It is more than the tolerance, or shapes or numbers of frames differ.
    """
    for name, wanted in expected.items():
        if name not in got or got[name].shape != wanted.shape:
            raise ExportFailed(f"output {name} of the exported graph has another shape at {where}")
    if (expected["frames"] != got["frames"]).any():
        raise ExportFailed(f"the exported graph counts other frames than PyTorch at {where}")
    log_probs = expected["log_probs"]
    valid = np.arange(log_probs.shape[1]) < expected["frames"][:, np.newaxis]
    worst = float(np.abs(log_probs - got["log_probs"])[valid].max(initial=0.0))
    if not worst <= TOLERANCES["log_probs"]:
        raise ExportFailed(
            f"output log_probs of the exported graph differs from PyTorch by {worst:.3g} at {where}; the "
            f"tolerance is {TOLERANCES['log_probs']:g}. Nothing was written"
        )
    return worst

"""A version of a speech model: graph, tokens, words, language model, golden arrays and recordings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from service.repository.manifest import (
    VERSION_FILE,
    Baseline,
    Provenance,
    Transcription,
    Variant,
    VersionFacts,
    write,
)
from service.tasks.audio.speech_recognition import SpeechRecognition
from training.core.version_folder import GRAPH_FILE, hashes, quantiles, with_figures, write_golden_files
from training.errors import ExportFailed
from training.recipes.speech_recipes import SpeechRecipe, WordSearch
from training.speech.dataset import SpeechSource
from training.speech.export import Arrays, run_by_torch, write_sound_graph
from training.speech.recognition.decoder_tuning import tuned
from training.speech.recognition.golden import choose_golden_speech
from training.speech.recognition.language_model import arpa, word_list
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.metrics import SpeechFigures, measure, rates
from training.speech.recognition.predict import answers_of_version
from training.speech.recognition.tokens import plain

TOKENS_FILE, WORDS_FILE, MODEL_FILE = "tokens.txt", "words.txt", "words.arpa"
TOLERANCES = {"log_probs": 5e-3, "frames": 0.5}  # unlikely letters, at -15, differ most


def fill_version(
    folder: Path, learner: SpeechLearner, recipe: SpeechRecipe, source: SpeechSource, provenance: Provenance
) -> tuple[VersionFacts, SpeechFigures]:
    """Write every file of a version, `version.yaml` last.

    Args:
        folder: Where to.
        learner: The trained network.
        recipe: What was done.
        source: What was learnt from, for word list and language model; the validation part chooses the
            search and gives the golden files, the held-out part the figures.
        provenance: Where the version comes from.

    Raises:
        ExportFailed: The graph does not hear what PyTorch hears, or it hears nothing.
    """
    network = learner.eval().graph
    (folder / TOKENS_FILE).write_text("\n".join(learner.tokens) + "\n", encoding="utf-8")
    write_words(folder, source.training_set().texts, recipe.search)
    validation, held_out = source.validation_files(), source.held_out_files()
    run = write_sound_graph(folder, network, recipe, validation, difference)
    draft = VersionFacts(
        created=datetime.now(UTC).replace(microsecond=0),
        provenance=provenance,
        input=recipe.input,
        transcription=transcription_of(network.frame_seconds, recipe.search),
        variants=(Variant(file=GRAPH_FILE, tolerance=TOLERANCES),),
        files=hashes(folder),
    )
    draft = draft.model_copy(update={"transcription": tuned(folder, draft, run, validation)})
    task = SpeechRecognition(folder, draft)
    by_torch = run_by_torch(network, recipe.manifest.task)
    write_golden_files(folder, choose_golden_speech(task, by_torch, validation))
    draft = draft.model_copy(update={"files": hashes(folder)})
    answers = answers_of_version(folder, held_out, draft)
    figures = measure(list(zip(held_out, answers, strict=True)))
    counts: dict[str, float | str] = {
        "held_out_items": float(figures.whole.searched.files),
        "held_out_words": float(figures.whole.searched.words),
        "split": source.split,
    }
    confidences = np.array([confidence for answer in answers for confidence in answer.confidences])
    baseline = Baseline(confidence=quantiles(confidences) if confidences.size else {})
    facts = with_figures(draft, rates(figures), counts, baseline)
    write(folder / VERSION_FILE, facts)
    return facts, figures


def write_words(folder: Path, transcripts: Sequence[str], search: WordSearch | None) -> None:
    """Write the word list and the language model that a recipe asks for."""
    if search is None:
        return
    texts = [plain(text) for text in transcripts]
    (folder / WORDS_FILE).write_text("\n".join(word_list(texts)) + "\n", encoding="utf-8")
    if search.order:
        (folder / MODEL_FILE).write_text(arpa(texts, search.order), encoding="utf-8")


def transcription_of(frame_seconds: float, search: WordSearch | None) -> Transcription:
    """Say how a version's speech is written down, before weights are chosen."""
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


def difference(expected: Arrays, got: Arrays, where: str) -> float:
    """Compare what a graph hears with what PyTorch hears, frame by frame, without padding.

    Args:
        expected: PyTorch's `log_probs` f32 [N, F, V] and `frames` i64 [N].
        got: The graph's.
        where: The batch, to be named in an error.

    Returns:
        The largest absolute difference of a log probability.

    Raises:
        ExportFailed: It is more than the tolerance, or shapes or counts of frames differ.
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

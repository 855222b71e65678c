"""A version of a speech model: graph, tokens, words, language model, golden arrays and recordings."""

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
from service.manifest import (
    VERSION_FILE,
    Baseline,
    Provenance,
    Transcription,
    Variant,
    VersionFacts,
    write,
)
from service.tasks.speech import SpeechRecognition
from training.errors import ExportFailed
from training.export import EXPORT_BATCH, PARITY_BATCHES, write_graph
from training.networks.speech_encoder import SpeechEncoder
from training.recipes.speech_recipes import SpeechRecipe, WordSearch
from training.speech.recognition.answers import Arrays, Run, answers_of_version, run_by_torch, with_search
from training.speech.recognition.figures import SpeechFigures, measure, rates
from training.speech.recognition.golden import (
    choose_golden_speech,
    golden_sounds,
    stacked,
    write_golden_speech,
)
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.letters import plain
from training.speech.recognition.tuning import tuned
from training.speech.recognition.word_model import arpa, word_list
from training.speech.sounds import decoded
from training.speech.utterances import SpokenFile
from training.version_folder import GRAPH_FILE, hashes, quantiles

TOKENS_FILE, WORDS_FILE, MODEL_FILE = "tokens.txt", "words.txt", "words.arpa"
TOLERANCES = {"log_probs": 5e-3, "frames": 0.5}  # unlikely letters, at -15, differ most
_REAL_SOUNDS = 2  # in the golden arrays
_EXPORT_SECONDS = 1.0
_EXTRA_SECONDS = (0.0, 0.37, 1.1)  # of nothing but padding, one number a parity batch


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version is made from and judged by.

    Attributes:
        transcripts: What was learnt from, for word list and language model.
        validation: Raw files to choose the search on, of which some are published with the model.
        held_out: The test part's raw files.
        split: Name of the split, for the metrics.
    """

    provenance: Provenance
    transcripts: Sequence[str]
    validation: Sequence[SpokenFile]
    held_out: Sequence[SpokenFile]
    split: str


def fill_version(
    folder: Path, learner: SpeechLearner, recipe: SpeechRecipe, origin: Origin
) -> tuple[VersionFacts, SpeechFigures]:
    """Write every file of a version, `version.yaml` last.

    Raises:
        ExportFailed: The graph does not hear what PyTorch hears.
    """
    network, spec = learner.eval().graph, recipe.input
    (folder / TOKENS_FILE).write_text("\n".join(learner.tokens) + "\n", encoding="utf-8")
    write_words(folder, origin.transcripts, recipe.search)
    export_speech(network, spec.sample_rate, folder / GRAPH_FILE)
    sounds = [decoded(file.content, spec) for file in origin.validation[: max(PARITY_BATCHES)]]
    session = Session(folder / GRAPH_FILE, Device("cpu"))
    check_speech_parity(network, session.run, sounds, spec.sample_rate)
    by_torch = run_by_torch(network)
    arrays = golden_sounds(sorted(sounds, key=len)[:_REAL_SOUNDS], spec.sample_rate)
    write_golden_arrays(folder, arrays, by_torch(arrays))
    draft = VersionFacts(
        created=datetime.now(UTC).replace(microsecond=0),
        provenance=origin.provenance,
        input=spec,
        transcription=transcription_of(network.frame_seconds, recipe.search),
        variants=(Variant(file=GRAPH_FILE, tolerance=TOLERANCES),),
        files=hashes(folder),
    )
    draft = with_search(draft, tuned(folder, draft, session.run, origin.validation))
    task = SpeechRecognition(folder, draft)
    write_golden_speech(folder, choose_golden_speech(task, by_torch, origin.validation))
    draft = draft.model_copy(update={"files": hashes(folder)})
    answers = answers_of_version(folder, origin.held_out, draft)
    figures = measure(list(zip(origin.held_out, answers, strict=True)))
    confidences = [confidence for answer in answers for confidence in answer.confidences]
    facts = _with_figures(draft, figures, origin.split, np.array(confidences))
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


def export_speech(network: SpeechEncoder, sample_rate: int, path: Path) -> None:
    """Write the whole network, samples to log probabilities, as one ONNX file with both axes dynamic."""
    samples = round(_EXPORT_SECONDS * sample_rate)
    examples = (torch.zeros(EXPORT_BATCH, samples), torch.full((EXPORT_BATCH,), samples))
    items, length = torch.export.Dim("N", min=1), torch.export.Dim("T", min=1)
    write_graph(network, "speech-recognition", examples, ({0: items, 1: length}, {0: items}), path)


def check_speech_parity(
    network: SpeechEncoder, run: Run, sounds: Sequence[NDArray[np.int16]], sample_rate: int
) -> float:
    """Compare ONNX Runtime with PyTorch at several batch sizes and lengths, none the exporting ones.

    Args:
        network: In evaluation mode.
        run: The exported graph.
        sounds: i16 [T] each, taken round and round for larger batches.
        sample_rate: Samples a second.

    Returns:
        The largest absolute difference of a log probability.

    Raises:
        ExportFailed: The outputs differ by more than the tolerance, or have another shape.
    """
    worst = 0.0
    for size, extra in zip(PARITY_BATCHES, _EXTRA_SECONDS, strict=True):
        rows = [sounds[place % len(sounds)] for place in range(size)]
        inputs = stacked(rows, padding=round(extra * sample_rate))
        worst = max(worst, _difference(run_by_torch(network)(inputs), run(inputs), size))
    return worst


def _difference(expected: Arrays, got: Arrays, size: int) -> float:
    where = f"a batch of {size}"
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


def _with_figures(
    draft: VersionFacts, figures: SpeechFigures, split: str, confidences: NDArray[np.float64]
) -> VersionFacts:
    numbers = {name: round(value, 5) for name, value in rates(figures).items()}
    counts: dict[str, float | str] = {
        "held_out_items": float(figures.whole.searched.files),
        "held_out_words": float(figures.whole.searched.words),
        "split": split,
    }
    return draft.model_copy(
        update={
            "variants": (draft.variants[0].model_copy(update={"metrics": numbers}),),
            "metrics": numbers | counts,
            "baseline": Baseline(confidence=quantiles(confidences) if confidences.size else {}),
        }
    )

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engine.queue.batch import stack
from service.engine.runtime.session import Device, Session
from service.errors import InvalidInput, ModelRejected, TooLarge
from service.repository.golden import check_cases
from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import TASKS, Limits
from service.tasks.audio.classification import AudioClassification, AudioClassificationParameters
from tests.tiny_models import SPEC
from tests.tiny_speech_models import (
    KEYWORD_SECONDS,
    RATE,
    keyword_probabilities,
    make_keyword_model,
    tone,
    wav,
)

PARAMETERS = AudioClassificationParameters()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keyword_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def facts(folder: Path) -> VersionFacts:
    return read(folder / VERSION_FILE, VersionFacts)


@pytest.fixture(scope="module")
def task(folder: Path, facts: VersionFacts) -> AudioClassification:
    return AudioClassification(folder, facts)


def test_alone_equals_in_a_padded_batch(folder: Path, task: AudioClassification) -> None:
    run = Session(folder / "model.onnx", Device("cpu"), threads=1).run
    check_cases(folder, task, run, Limits())
    recordings = [tone(letter, seconds) for letter, seconds in (("a", 0.2), ("c", 0.9), ("h", 0.5))]
    decoded = [task.decode(wav(samples), Limits(), PARAMETERS) for samples in recordings]
    assert [item.costs for item in decoded] == [(len(samples),) for samples in recordings]
    outputs = run(stack([item.parts[0] for item in decoded]))["probabilities"]
    for row, samples in zip(outputs, recordings, strict=True):
        assert row == pytest.approx(keyword_probabilities(samples), abs=1e-3)


def test_a_short_recording_is_filled_up_with_silence(task: AudioClassification) -> None:
    (part,) = task.decode(wav(tone("a", 0.02)), Limits(), PARAMETERS).parts
    assert part["lengths"] == RATE // 10
    assert not part["audio"][RATE // 50 :].any()


def test_a_recording_longer_than_the_graph_takes_is_refused_or_cut(task: AudioClassification) -> None:
    body = wav(tone("a", KEYWORD_SECONDS + 0.01))
    with pytest.raises(TooLarge, match=f"{KEYWORD_SECONDS:g} seconds"):
        task.decode(body, Limits(), PARAMETERS)
    decoded = task.decode(body, Limits(), AudioClassificationParameters(truncate=True))
    assert decoded.costs == (round(KEYWORD_SECONDS * RATE),)
    answer = task.answer([{"probabilities": np.eye(9, dtype=np.float32)[1]}], decoded, PARAMETERS)
    assert answer["truncated"] is True


def test_another_kind_of_input_is_refused(folder: Path, facts: VersionFacts) -> None:
    with pytest.raises(ModelRejected, match="audio-classification needs audio"):
        AudioClassification(folder, facts.model_copy(update={"input": SPEC}))
    with pytest.raises(InvalidInput, match="audio file"):
        AudioClassification.from_json(3)
    assert TASKS["audio-classification"] is AudioClassification

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from service.engine.queue.batch import stack
from service.engine.runtime.session import Device, Session
from service.errors import InvalidInput, ModelRejected, ValidationFailed
from service.repository.golden import check_cases, check_files
from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import TASKS, Limits, answer_one
from service.tasks.audio.ctc_decoding import SEPARATOR
from service.tasks.audio.speech_recognition import SpeechParameters, SpeechRecognition, Transcript
from tests.tiny_models import SPEC
from tests.tiny_speech_models import FRAME, RATE, TOKENS, WORDS, make_speech_model, speak, tone, wav

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
PARAMETERS = SpeechParameters()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_speech_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def facts(folder: Path) -> VersionFacts:
    return read(folder / VERSION_FILE, VersionFacts)


@pytest.fixture(scope="module")
def task(folder: Path, facts: VersionFacts) -> SpeechRecognition:
    return SpeechRecognition(folder, facts)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return Session(folder / "model.onnx", Device("cpu"), threads=1).run


def transcribed(
    task: SpeechRecognition, run: Run, body: bytes, parameters: SpeechParameters = PARAMETERS
) -> Transcript:
    return cast(Transcript, answer_one(task, run, body, Limits(), parameters))


def chosen(seed: int, count: int) -> list[str]:
    return [str(word) for word in np.random.default_rng(seed).choice(WORDS, count)]


class TestDecoding:
    def test_a_recording_costs_its_samples(self, task: SpeechRecognition) -> None:
        samples, _ = speak(["bad"])
        decoded = task.decode(wav(samples), Limits(), PARAMETERS)
        assert decoded.costs == (len(samples),)
        assert decoded.parts[0]["lengths"] == len(samples)
        assert decoded.parts[0]["audio"] == pytest.approx(samples, abs=1e-4)

    def test_a_very_short_one_is_filled_up(self, task: SpeechRecognition, facts: VersionFacts) -> None:
        decoded = task.decode(wav(tone("a", 0.01)), Limits(), PARAMETERS)
        assert facts.input.kind == "audio"
        assert decoded.costs == (int(facts.input.min_seconds * RATE),)

    def test_no_part_is_longer_than_the_graph_takes(
        self, task: SpeechRecognition, facts: VersionFacts
    ) -> None:
        body = wav(speak(chosen(0, 100), pauses=0.1)[0])
        decoded = task.decode(body, Limits(), PARAMETERS)
        assert len(decoded.parts) > 10
        assert facts.input.kind == "audio"
        assert max(decoded.costs) <= facts.input.max_seconds * RATE

    def test_base64_must_be_a_text(self) -> None:
        assert SpeechRecognition.from_json("UklGRg==") == b"RIFF"
        with pytest.raises(InvalidInput, match="audio file"):
            SpeechRecognition.from_json(["UklGRg=="])


class TestAnswers:
    def test_alone_equals_in_a_padded_batch(self, task: SpeechRecognition, run: Run) -> None:
        bodies = [wav(speak(chosen(seed, seed + 1))[0]) for seed in range(6)]
        decoded = [task.decode(body, Limits(), PARAMETERS) for body in bodies]
        outputs = run(stack([item.parts[0] for item in decoded]))
        for row, (item, body) in enumerate(zip(decoded, bodies, strict=True)):
            part = {name: output[row] for name, output in outputs.items()}
            assert task.answer([part], item, PARAMETERS) == transcribed(task, run, body)

    @pytest.mark.parametrize("pauses", [(0.0,), (0.3,), (0.0, 0.0, 0.0, 1.0), (0.0, 0.5, 2.5, 9.0)])
    @pytest.mark.parametrize("seed", range(3))
    def test_a_long_recording_has_every_word_once_in_order_and_in_time(
        self, task: SpeechRecognition, run: Run, pauses: tuple[float, ...], seed: int
    ) -> None:
        words = chosen(seed, 150)
        silences = [float(p) for p in np.random.default_rng(seed).choice(pauses, len(words))]
        samples, times = speak(words, pauses=silences)
        transcript = transcribed(task, run, wav(samples))
        assert transcript["text"].split() == words
        assert transcript["duration"] == pytest.approx(len(samples) / RATE, abs=1e-3)
        for word, (start, end) in zip(transcript["words"], times, strict=True):
            assert word["start"] == pytest.approx(start, abs=0.08)
            assert word["end"] == pytest.approx(end, abs=0.08)
        for before, behind in itertools.pairwise(transcript["words"]):
            assert before["start"] < before["end"] <= behind["start"]

    def test_an_hour_of_silence_is_an_empty_text_without_a_run(self, task: SpeechRecognition) -> None:
        file = BytesIO()
        with soundfile.SoundFile(file, "w", RATE, 1, format="FLAC") as out:
            for _ in range(60):
                out.write(np.zeros(60 * RATE, dtype=np.int16))
        decoded = task.decode(file.getvalue(), Limits(), PARAMETERS)
        assert decoded.parts == ()
        expected = {"text": "", "words": [], "duration": 3600.0}
        assert task.answer([], decoded, PARAMETERS) == expected

    def test_a_word_in_minutes_of_silence_takes_one_short_run(
        self, task: SpeechRecognition, run: Run
    ) -> None:
        samples, _ = speak(["head"])
        file = BytesIO()
        with soundfile.SoundFile(file, "w", RATE, 1, format="FLAC") as out:
            for minute in range(10):
                out.write(samples if minute == 5 else np.zeros(60 * RATE, dtype=np.float32))
        decoded = task.decode(file.getvalue(), Limits(), PARAMETERS)
        assert sum(decoded.costs) < 2 * RATE
        transcript = transcribed(task, run, file.getvalue())
        (word,) = transcript["words"]
        assert word["word"] == "head"
        assert word["start"] == pytest.approx(5 * 60, abs=0.1)

    def test_a_cut_recording_says_so(self, task: SpeechRecognition, run: Run) -> None:
        body = wav(speak(["bad"] * 40)[0])
        limits = Limits(max_audio_seconds=2.0)
        answer = answer_one(task, run, body, limits, SpeechParameters(truncate=True))
        assert answer["truncated"] is True and answer["duration"] == 2.0

    def test_a_search_among_words_needs_a_list(self, tmp_path: Path) -> None:
        folder = make_speech_model(tmp_path, words=False)
        speller = SpeechRecognition(folder, read(folder / VERSION_FILE, VersionFacts))
        with pytest.raises(ValidationFailed, match="no word list"):
            speller.decode(wav(speak(["bad"])[0]), Limits(), SpeechParameters(search="words"))


class TestLoading:
    def test_files_that_are_needed_must_have_hashes(self, tmp_path: Path) -> None:
        folder = make_speech_model(tmp_path, language_model=True)
        facts = read(folder / VERSION_FILE, VersionFacts)
        for name in ("tokens.txt", "words.txt", "words.arpa"):
            files = {key: value for key, value in facts.files.items() if key != name}
            with pytest.raises(ModelRejected, match=f"no hash for {name}"):
                check_files(folder, facts.model_copy(update={"files": files}))

    def test_another_kind_of_input_is_refused(self, folder: Path, facts: VersionFacts) -> None:
        for change in ({"input": SPEC}, {"transcription": None}):
            with pytest.raises(ModelRejected, match="speech-recognition needs"):
                SpeechRecognition(folder, facts.model_copy(update=change))

    def test_the_golden_case_is_answered(self, folder: Path, task: SpeechRecognition, run: Run) -> None:
        check_cases(folder, task, run, Limits())

    def test_the_task_is_listed(self) -> None:
        assert TASKS["speech-recognition"] is SpeechRecognition


class TestOutputs:
    def outputs(self, run: Run) -> dict[str, NDArray[Any]]:
        rows = [speak(words)[0] for words in (["bad", "dad"], ["a"])]
        longest = max(map(len, rows))
        audio = np.stack([np.pad(row, (0, longest - len(row))) for row in rows])
        return dict(run({"audio": audio, "lengths": np.array([len(row) for row in rows])}))

    def test_what_the_graph_gives_passes(self, task: SpeechRecognition, run: Run) -> None:
        task.check_outputs(self.outputs(run))

    def test_shapes_and_sums_that_do_not_fit_are_refused(self, task: SpeechRecognition, run: Run) -> None:
        good = self.outputs(run)
        frames = good["frames"]
        for wrong, reason in (
            ({"log_probs": good["log_probs"][..., 1:]}, f"{len(TOKENS)} tokens"),
            ({"log_probs": good["log_probs"][0]}, "tokens"),
            ({"frames": frames[:1]}, "frames has shape"),
            ({"frames": frames + 1000}, "outside of 0 to"),
            ({"frames": frames - 1000}, "outside of 0 to"),
            ({"log_probs": good["log_probs"] + 0.1}, "add up to 1"),
            ({"log_probs": good["log_probs"] * np.nan}, "add up to 1"),
        ):
            with pytest.raises(ModelRejected, match=reason):
                task.check_outputs({**good, **wrong})

    def test_only_valid_frames_and_likely_tokens_are_compared(
        self, task: SpeechRecognition, run: Run
    ) -> None:
        good = self.outputs(run)
        assert task.differences(good, good) == {"log_probs": 0.0, "frames": 0.0}
        padding = good["log_probs"].copy()
        padding[1, good["frames"][1] :] = -7.0
        assert task.differences(good, {**good, "log_probs": padding})["log_probs"] == 0.0
        other = good["log_probs"].copy()
        other[1, 0, 0] -= 0.5
        assert task.differences(good, {**good, "log_probs": other})["log_probs"] == pytest.approx(0.5)
        assert task.differences(good, {**good, "frames": good["frames"] + 1})["frames"] == 1.0


class TestAgreement:
    def expected(self, **changes: object) -> dict[str, Any]:
        word = {"word": "bad", "start": 1.0, "end": 1.5, "confidence": 0.9}
        return {"text": "bad", "duration": 2.0, "words": [{**word, **changes}]}

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({}, None),
            ({"start": 1.05, "confidence": 0.91}, None),
            ({"start": 1.2}, "0.20 s away"),
            ({"end": 1.9}, "0.40 s away"),
            ({"confidence": 0.8}, "confidence 0.9000"),
        ],
    )
    def test_words_agree_within_bounds(
        self, task: SpeechRecognition, changes: dict[str, float], problem: str | None
    ) -> None:
        found = task.agrees(self.expected(**changes), self.expected(), 0.02)
        assert (problem is None and found is None) or (problem is not None and problem in str(found))

    def test_another_text_is_told_apart(self, task: SpeechRecognition) -> None:
        expected = {"text": "dad", "duration": 2.0}
        assert "expected 'dad'" in str(task.agrees(expected, self.expected(), 0.1))
        assert "not a transcript" in str(task.agrees({"label": "x"}, self.expected(), 0.1))
        assert task.agrees({"text": "bad", "duration": 2.0}, self.expected(), 0.1) is None


def test_the_separator_has_a_tone_of_its_own() -> None:
    assert TOKENS[1] == SEPARATOR and FRAME * 50 == RATE

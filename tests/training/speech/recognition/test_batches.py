import numpy as np
import pytest

from training.errors import DataRejected
from training.speech.dataset import SpeechTrainingSet
from training.speech.recognition.batches import BatchSize, SpeechBatches, batch_bounds
from training.speech.recognition.tokens import best_path, encode_text, tokens_of

TOKENS = tokens_of(["a b"])
SIZE = BatchSize(samples=5000, sample_rate=1000)


def spoken(count: int = 60) -> SpeechTrainingSet:
    """Utterances whose samples all are their number."""
    lengths = np.random.default_rng(2).integers(200, 1500, count)
    samples = np.repeat(np.arange(count), lengths).astype(np.int16)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SpeechTrainingSet(samples, offsets, [f"word {'x' * (i % 5)}" for i in range(count)], ["v"] * count)


def members(batches: SpeechBatches, step: int) -> list[int]:
    return [int(row[0]) for row in batches[step][0].numpy()]


def test_a_pass_shows_every_utterance_once_within_the_size_of_a_batch() -> None:
    data = spoken()
    batches = SpeechBatches(data, TOKENS, SIZE, seed=0)
    for number in (0, 3):
        seen = []
        for step in range(number * batches.steps, (number + 1) * batches.steps):
            audio, lengths, letters, counts = batches[step]
            assert audio.numel() <= 5000
            assert lengths.min() > lengths.max() - 600
            assert len(letters) == counts.sum()
            seen += members(batches, step)
            for row, length in zip(audio.numpy(), lengths.tolist(), strict=True):
                assert length == len(data.utterance(int(row[0])))
                assert not row[length:].any()
        assert sorted(seen) == list(range(60))


def test_batches_depend_on_seed_and_step_alone() -> None:
    first, again = (SpeechBatches(spoken(), TOKENS, SIZE, seed=4) for _ in range(2))
    late = first.steps * 2 + 1
    for step in range(late):
        members(first, step)
    assert members(first, late) == members(again, late)
    orders = {tuple(members(first, number * first.steps)) for number in range(4)}
    assert len(orders) > 1
    other = SpeechBatches(spoken(), TOKENS, SIZE, seed=5)
    assert [members(other, i) for i in range(3)] != [members(first, i) for i in range(3)]


def test_letters_stand_one_utterance_behind_the_other() -> None:
    data = SpeechTrainingSet(np.ones(40, np.int16), np.array([0, 20, 40]), ["ab", "b a"], ["v", "v"])
    _, _, letters, counts = SpeechBatches(data, TOKENS, SIZE, seed=0)[0]
    parts = np.split(letters.numpy(), np.cumsum(counts.numpy())[:-1])
    assert sorted("".join(TOKENS[n] for n in part) for part in parts) == ["ab", "b|a"]


def test_utterances_without_sound_or_letters_are_left_out_and_none_at_all_is_told() -> None:
    data = SpeechTrainingSet(np.ones(20, np.int16), np.array([0, 10, 20, 20]), ["a", "", "b"], ["v"] * 3)
    assert SpeechBatches(data, TOKENS, SIZE, seed=0)[0][0].shape == (1, 10)
    with pytest.raises(DataRejected, match="no speech to learn from"):
        SpeechBatches(SpeechTrainingSet(np.zeros(0, np.int16), np.array([0]), [], []), TOKENS, SIZE, seed=0)


def test_a_single_long_utterance_is_a_batch_by_itself() -> None:
    assert batch_bounds(np.array([10, 10, 40, 90, 95]), 60) == [(0, 2), (2, 3), (3, 4), (4, 5)]


def test_a_transcript_is_spelt_and_a_best_path_read() -> None:
    tokens = tokens_of(["Grüße dich"])
    assert {"ü", "ß"} < set(tokens)
    assert tokens[0] == "<blank>" and tokens[-1] == "|"
    numbers = encode_text("  Dich  GRÜSSE ", tokens)
    assert "".join(tokens[n] for n in numbers) == "dich|grüsse"
    path = [tokens.index(letter) if letter != "_" else 0 for letter in "_aa_a|||b__'_"]
    log_probs = np.full((len(path), len(tokens)), -9.0, dtype=np.float32)
    log_probs[np.arange(len(path)), path] = -0.1
    assert best_path(log_probs, tokens) == "aa b'"
    assert best_path(log_probs[:0], tokens) == ""

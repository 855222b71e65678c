import numpy as np
import pytest
import torch

from training.errors import DataRejected
from training.networks.sound_classifier import SoundClassifier, SoundFront
from training.speech.dataset import SpeechTrainingSet
from training.speech.keywords.batches import KeywordBatches, labels_of

RATE = 16_000


@pytest.fixture(scope="module")
def network() -> SoundClassifier:
    torch.manual_seed(4)
    built = SoundClassifier(SoundFront(RATE, 20, 0.01), (4, 6, 8, 16), 0.2, 5)
    built.train()
    with torch.no_grad():  # means and deviations as after some learning, not 0 and 1
        for _ in range(20):
            built(torch.randn(4, 9000) * 0.1, torch.tensor([9000, 8000, 7000, 5000]))
    return built.eval()


def test_an_item_alone_is_answered_as_in_a_padded_batch(network: SoundClassifier) -> None:
    lengths = torch.tensor([9000, 1, 4097, 16_000, 161])
    # Not zeros but noise stands behind the shorter ones: it must not be heard.
    audio = torch.randn(5, 16_300, generator=torch.Generator().manual_seed(1)) * 0.2
    with torch.inference_mode():
        together = network(audio, lengths)
        for row, length, heard in zip(audio, lengths, together, strict=True):
            alone = network(row[None, : int(length)], length[None])
            torch.testing.assert_close(alone[0], heard, atol=1e-5, rtol=0)
    assert together.std(dim=0).max() > 1e-3  # the items differ, so that equality says something


def test_probabilities_add_up_even_of_nothing(network: SoundClassifier) -> None:
    with torch.inference_mode():
        probabilities = network(torch.zeros(2, 4000), torch.tensor([4000, 0]))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("widths", [(3, 8), (3, 4, 5, 6, 8)])
def test_any_number_of_convolutions_will_do(widths: tuple[int, ...]) -> None:
    built = SoundClassifier(SoundFront(RATE, 16, 0.02), widths, 0.0, 3).eval()
    with torch.inference_mode():
        assert built(torch.randn(2, 5000), torch.tensor([5000, 3000])).shape == (2, 3)


def spoken(lengths: list[int]) -> SpeechTrainingSet:
    """Sounds whose every sample is their number."""
    samples = np.repeat(np.arange(len(lengths)), lengths).astype(np.int16)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return SpeechTrainingSet(samples, offsets, ["ab"[number % 2] for number in range(len(lengths))], ["me"])


def test_a_pass_goes_through_every_sound_once_and_the_next_in_another_order() -> None:
    data = spoken([3 + number % 7 for number in range(60)])
    batches = KeywordBatches(data, ["a", "b"], 4, 7)
    assert batches.steps == 15
    met = [torch.cat([batches[step][0][:, 0] for step in range(first, first + 15)]) for first in (0, 15)]
    assert all(one.sort().values.tolist() == list(range(60)) for one in met)
    assert met[0].tolist() != met[1].tolist()
    assert batches[3][0].tolist() == KeywordBatches(data, ["a", "b"], 4, 7)[3][0].tolist()


def test_a_batch_holds_sounds_of_like_length_with_their_labels() -> None:
    batches = KeywordBatches(spoken([3 + number % 7 for number in range(60)]), ["a", "b"], 4, 7)
    for step in range(batches.steps):
        audio, lengths, labels = batches[step]
        assert int(lengths.max() - lengths.min()) <= 1 and audio.shape[1] == int(lengths.max())
        assert labels.tolist() == [number % 2 for number in audio[:, 0].tolist()]
        assert all((row[int(length) :] == 0).all() for row, length in zip(audio, lengths, strict=True))


def test_sounds_of_no_length_are_left_out_and_nothing_at_all_is_refused() -> None:
    batches = KeywordBatches(spoken([5, 0, 5, 0, 5]), ["a", "b"], 10, 0)
    assert batches[0][0][:, 0].sort().values.tolist() == [0, 2, 4]
    with pytest.raises(DataRejected, match="no sound to learn from"):
        KeywordBatches(spoken([0, 0]), ["a", "b"], 10, 0)


def test_a_held_out_label_that_nothing_was_learnt_of_is_refused() -> None:
    assert labels_of(["b", "a"], ["a", "b"]).tolist() == [1, 0]
    with pytest.raises(DataRejected, match="labelled c"):
        labels_of(["c"], ["a", "b"])

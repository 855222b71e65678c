import numpy as np
import pytest
import torch

from training.networks.log_mel import LogMel, mel_filters
from training.networks.speech_encoder import SpeechEncoder
from training.recipes.speech_recipe import SpeechEncoderSize

TINY = SpeechEncoderSize(mels=20, width=16, blocks=2, heads=2, kernel=5, expansion=2)
RATE = 16_000


@pytest.fixture(scope="module")
def network() -> SpeechEncoder:
    torch.manual_seed(3)
    return SpeechEncoder(TINY, RATE, 5).eval()


def test_the_convolution_is_a_windowed_fourier_transform_and_a_mel_filter_bank() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 2000).astype(np.float32)
    log_mel = LogMel(RATE, bands=40, hop_seconds=0.01)
    with torch.inference_mode():
        features, frames = log_mel(torch.from_numpy(sound)[None], torch.tensor([2000]))
    padded = np.pad(sound, (120, 400))  # a window of 400 samples stands around each 160
    time = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (time + 0.5) / 400)
    pieces = np.stack([padded[i * 160 : i * 160 + 400] * window for i in range(13)])
    power = np.abs(np.fft.rfft(pieces, 512)) ** 2
    logs = np.log(mel_filters(RATE, 512, 40) @ power.T + 1e-6)
    logs -= logs.mean(axis=1, keepdims=True)
    assert frames.tolist() == [13]
    np.testing.assert_allclose(features[0].numpy(), logs / np.sqrt((logs**2).mean()), atol=2e-3)


def test_every_mel_band_hears_something_and_a_tone_is_heard_in_its_own() -> None:
    filters = mel_filters(RATE, 512, 80)
    np.testing.assert_allclose(filters.sum(axis=1), 1.0, rtol=1e-5)
    centres = (filters * np.arange(257)).sum(axis=1) * RATE / 512
    assert (np.diff(centres) > 0).all()
    assert filters[:, 32].argmax() == np.abs(centres - 1000).argmin()


def test_loudness_does_not_matter() -> None:
    log_mel = LogMel(RATE, bands=20, hop_seconds=0.008)
    sound = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0)) * 0.3
    lengths = torch.tensor([8000])
    loud, quiet = (log_mel(sound * gain, lengths)[0] for gain in (1.0, 0.2))
    torch.testing.assert_close(loud, quiet, atol=5e-3, rtol=0)


def test_silence_stays_silent() -> None:
    features, _ = LogMel(RATE, bands=20, hop_seconds=0.008)(torch.zeros(1, 4000), torch.tensor([4000]))
    assert features.abs().max() < 1e-4


def test_an_item_alone_is_answered_as_in_a_padded_batch(network: SpeechEncoder) -> None:
    lengths = torch.tensor([9000, 1, 4097, 16_000, 513])
    # Not zeros but noise stands behind the shorter ones: it must not be heard.
    audio = torch.randn(5, 16_300, generator=torch.Generator().manual_seed(1)) * 0.2
    with torch.inference_mode():
        together, frames = network(audio, lengths)
        for row, length, count, heard in zip(audio, lengths, frames, together, strict=True):
            alone, own = network(row[None, : int(length)], length[None])
            assert own.tolist() == [int(count)]
            assert alone.shape[1] == int(count)
            torch.testing.assert_close(alone[0], heard[: int(count)], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 511, 512, 513, 5000])
def test_frames_are_as_long_as_the_network_says(network: SpeechEncoder, length: int) -> None:
    with torch.inference_mode():
        log_probs, frames = network(torch.zeros(1, length), torch.tensor([length]))
    assert network.frame_seconds == pytest.approx(512 / RATE)
    assert frames.tolist() == [-(-length // 512)] == [log_probs.shape[1]]


def test_probabilities_add_up_and_nothing_is_infinite_even_in_padding(network: SpeechEncoder) -> None:
    with torch.inference_mode():
        log_probs, _ = network(torch.rand(2, 4000) - 0.5, torch.tensor([4000, 0]))
    assert torch.isfinite(log_probs).all()
    torch.testing.assert_close(log_probs.exp().sum(dim=2), torch.ones(log_probs.shape[:2]))

import pytest
import torch

from training.speech.augmentation import augment, change_speed, mask_features

RATE = 16_000


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four tones of different lengths: f32 [4, 16000] and i64 [4]."""
    lengths = torch.tensor([16_000, 12_000, 9_001, 16_000])
    seconds = torch.arange(16_000) / RATE
    audio = torch.stack([0.4 * torch.sin(6.283 * hertz * seconds) for hertz in (300, 500, 900, 2000)])
    return audio * (torch.arange(16_000) < lengths[:, None]), lengths


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_generator_gives_the_same_sounds_and_another_gives_others() -> None:
    audio, lengths = batch()
    first, again, other = (augment(audio, lengths, generator(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("seed", range(12))
def test_varied_sounds_stay_in_range_with_nothing_beyond_their_lengths(seed: int) -> None:
    audio, lengths = augment(*batch(), generator(seed))
    assert audio.dtype == torch.float32
    assert audio.abs().max() <= 1 and audio.isfinite().all()
    assert audio.shape[1] == lengths.max()
    assert not (audio * (torch.arange(audio.shape[1]) >= lengths[:, None])).any()
    assert (audio.abs().amax(1) > 1e-4).all()


def test_the_given_batch_is_not_changed() -> None:
    audio, lengths = batch()
    before = audio.clone()
    augment(audio, lengths, generator(1))
    assert torch.equal(audio, before)


def test_complete_silence_and_a_single_utterance_can_be_varied() -> None:
    for seed in range(8):
        audio, _ = augment(torch.zeros(2, 4000), torch.tensor([4000, 100]), generator(seed))
        assert audio.isfinite().all()
        assert augment(torch.ones(1, 500), torch.tensor([500]), generator(seed))[0].isfinite().all()


def test_a_tone_spoken_faster_is_higher_by_as_much_as_it_is_shorter() -> None:
    audio, lengths = batch()
    for seed in range(6):
        sound, changed = change_speed(audio, lengths, generator(seed), RATE)
        spoken = int((sound[0] != 0).nonzero()[:, 0].max() - (sound[0] != 0).nonzero()[:, 0].min()) + 1
        speed = 16_000 / spoken
        assert 0.8 < speed < 1.25
        assert spoken <= int(changed[0]) <= spoken + 2 * 0.15 * RATE + 3
        spectrum = torch.fft.rfft(sound[0], 1 << 18).abs()
        assert float(spectrum.argmax()) * RATE / (1 << 18) == pytest.approx(300 * speed, rel=0.01)


def test_masks_hide_bands_and_times_but_leave_padding_and_most_of_the_rest() -> None:
    features = torch.randn(5, 200, 80, generator=generator(0))
    frames = torch.tensor([200, 150, 80, 10, 1])
    masked = mask_features(features, frames, generator(1))
    changed = masked != features
    padding = torch.arange(200) >= frames[:, None]
    assert not changed[padding].any()
    share = changed[0].float().mean()
    assert 0 < share < 0.6
    assert torch.equal(masked, mask_features(features, frames, generator(1)))

from itertools import pairwise

import numpy as np
import pytest
import torch

from training.core.optimizer import learning_rate_factor
from training.networks.resnet import ImageClassifier
from training.recipes.image_recipe import NetworkSize


@pytest.fixture
def network() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(3, 5, NetworkSize(widths=(4, 8, 8), blocks=2)).eval()


def pictures(count: int, high: int = 256) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, high, (count, 20, 24, 3)).astype(np.uint8))


@torch.inference_mode()
def test_probabilities_are_positive_and_add_up_to_one(network: ImageClassifier) -> None:
    probabilities = network(pictures(7))
    assert probabilities.shape == (7, 5)
    assert (probabilities > 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(7))


@torch.inference_mode()
def test_a_picture_alone_gets_the_answer_it_gets_in_a_batch(network: ImageClassifier) -> None:
    batch = pictures(6)
    alone = torch.cat([network(batch[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(network(batch), alone, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_exposure_and_contrast_do_not_matter(network: ImageClassifier) -> None:
    dim = pictures(4, high=100)
    torch.testing.assert_close(network(dim), network(dim * 2 + 40), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_an_empty_picture_gets_a_finite_answer(network: ImageClassifier) -> None:
    for level in (0, 128, 255):
        assert network(torch.full((1, 20, 24, 3), level, dtype=torch.uint8)).isfinite().all()


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    factors = [learning_rate_factor(step, 100, 0.2) for step in range(101)]
    assert factors[0] < 0.1
    assert max(factors) == factors[20] == 1.0
    assert factors[-1] == pytest.approx(0, abs=1e-9)
    assert all(a < b for a, b in pairwise(factors[:21]))
    assert all(a >= b for a, b in pairwise(factors[20:]))


def test_a_schedule_without_warm_up_starts_at_the_top() -> None:
    assert learning_rate_factor(0, 10, 0.0) == 1.0

"""A small residual network, with everything from `uint8` pixels to probabilities around it.

After K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, 2015
(arXiv:1512.03385): the two-layer block of figure 2, projection shortcuts where the shape changes
(section 3.3, option B), batch normalisation after every convolution, average pooling at the end.

Letters in shapes: `N` batch, `H` height, `W` width, `C` channels, `K` classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from training.recipes.image_recipe import NetworkSize

_SMALLEST_DEVIATION = 2 / 255  # an empty image must not be amplified to noise


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _convolution(channels_in, channels_out, 3, stride),
            nn.ReLU(),
            _convolution(channels_out, channels_out, 3, 1),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else _convolution(channels_in, channels_out, 1, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Transform f32 [N, C, H, W]; height and width shrink by the stride."""
        return functional.relu(self.convolutions(features) + self.shortcut(features))


class ResidualNetwork(nn.Module):
    """A stem that halves the image, residual stages, and one logit per class."""

    def __init__(self, channels: int, classes: int, size: NetworkSize) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(channels, size.widths[0], 5, 2), nn.ReLU()]
        before = size.widths[0]
        for stage, width in enumerate(size.widths):
            for block in range(size.blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                layers.append(ResidualBlock(before, width, stride))
                before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(size.dropout), nn.Linear(before, classes)
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits f32 [N, K] of f32 [N, C, H, W]."""
        logits: torch.Tensor = self.head(self.features(pictures))
        return logits


class ImageClassifier(nn.Module):
    """The exported graph: pixels in, probabilities out.

    Each image is normalised to mean 0 and deviation 1 by itself, so that exposure and contrast do not matter.
    """

    def __init__(self, channels: int, classes: int, size: NetworkSize) -> None:
        super().__init__()
        self.network = ResidualNetwork(channels, classes, size)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits.

        Args:
            image: u8 [N, H, W, C], or f32 of the same range, 0–255.

        Returns:
            f32 [N, K].
        """
        pictures = image.permute(0, 3, 1, 2).float() / 255
        centred = pictures - pictures.mean(dim=(1, 2, 3), keepdim=True)
        variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
        scores: torch.Tensor = self.network(centred / variance.sqrt().clamp(min=_SMALLEST_DEVIATION))
        return scores

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify u8 [N, H, W, C]; return probabilities f32 [N, K]."""
        return self.logits(image).softmax(dim=1)


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
    )

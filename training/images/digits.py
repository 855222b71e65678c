"""The bundled digits as a source of images."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.repository.manifest import ImageInput
from training.data.bundled_digits import bundled_digits
from training.data.drawn_digits import draw_digits
from training.images.digit_augmentation import DigitAugmentation
from training.images.redraw import Redrawing, redraw
from training.recipes.image_recipe import DigitsData


class Digits:
    """The bundled digits as a source of images: light ink on dark paper.

    Args:
        settings: Numbers of redrawn and drawn images.
        spec: Size of the graph's input.
        seed: Seed of the drawn images.
    """

    def __init__(self, settings: DigitsData, spec: ImageInput, seed: int) -> None:
        pixels, self.labels = bundled_digits()
        self._spec = spec
        self.redrawings = settings.redrawings
        self.classes = tuple(str(digit) for digit in range(10))
        self.pixels = pixels[..., None]
        self.extra_pixels, self.extra_labels = draw_digits(settings.drawn, seed)
        self.description = (
            f"scikit-learn's load_digits: {len(self.labels)} handwritten digits of 8 by 8 pixels "
            "(UCI Optical Recognition of Handwritten Digits, the part kept for testing)"
            + (
                f"; to learn from, {settings.drawn} drawn pictures of each digit more"
                if settings.drawn
                else ""
            )
        )

    def files(self, indices: NDArray[np.int64]) -> list[bytes]:
        """Return digits as PNG files of 8 × 8 pixels."""
        return [_png(self.pixels[i, :, :, 0]) for i in indices]

    def redrawn(self, indices: NDArray[np.int64], seed: int) -> list[Redrawing]:
        """Return digits as files like those that people send; see `training.images.redraw`."""
        return [
            redraw(self.pixels[i, :, :, 0], np.random.default_rng((seed, int(i), k)))
            for i in indices
            for k in range(self.redrawings)
        ]

    def augmentation(self) -> DigitAugmentation:
        """Return the augmentation for training digits."""
        return DigitAugmentation(self._spec)


def _png(grey: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(grey).save(file, format="PNG")
    return file.getvalue()

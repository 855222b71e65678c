"""The handwritten digits that scikit-learn bundles, 1,797 pictures of 8 × 8 pixels.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998: the part of that data set that its authors kept for testing, from 13 writers.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from service.repository.manifest import ImageInput
from training.data.drawn_digits import draw_digits
from training.images.digit_augmentation import DigitAugmentation
from training.images.redraw import Redrawing, redraw
from training.recipes.recipe import DigitsData

LEVELS = 16  # the data's own scale: 0 is paper, 16 is ink


class Digits:
    """The bundled digits as a source of pictures: light ink on dark paper, as the data has them.

    Args:
        settings: How many are redrawn and drawn.
        spec: Size of the graph's input.
        seed: Of the drawn ones.
    """

    def __init__(self, settings: DigitsData, spec: ImageInput, seed: int) -> None:
        data = load_digits()
        self._spec = spec
        self.redrawings = settings.redrawings
        self.labels: NDArray[np.int64] = data.target.astype(np.int64)
        self.classes = tuple(str(name) for name in data.target_names)
        self.pixels: NDArray[np.uint8] = (data.images * (255 / LEVELS)).round().astype(np.uint8)[..., None]
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
        """Give digits as PNG files of 8 × 8 pixels, nothing changed."""
        return [_png(self.pixels[i, :, :, 0]) for i in indices]

    def redrawn(self, indices: NDArray[np.int64], seed: int) -> list[Redrawing]:
        """Give digits as files like those that people send; see `training.images.redraw`."""
        return [
            redraw(self.pixels[i, :, :, 0], np.random.default_rng((seed, int(i), k)))
            for i in indices
            for k in range(self.redrawings)
        ]

    def augmentation(self) -> DigitAugmentation:
        """Make what varies training digits."""
        return DigitAugmentation(self._spec)


def _png(grey: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(grey).save(file, format="PNG")
    return file.getvalue()

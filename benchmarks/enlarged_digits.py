"""Large JPEG files of handwritten digits, as cameras and scanners make them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

_ENLARGERS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)


def enlarged_digits(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield JPEG files of handwritten digits: 100 to 900 pixels a side, and one of at least 2,700.

    Dark on light or light on dark, some with a photograph shining through, of any quality from 30 to 95.
    """
    digits, random = load_digits().images, np.random.default_rng(seed)
    photographs = [Image.fromarray(pixels).convert("L") for pixels in load_sample_images().images]
    for number in range(count):
        pixels = (digits[random.integers(len(digits))] * (255 / 16)).astype(np.uint8)
        if random.random() < 0.5:
            pixels = 255 - pixels
        side = int(random.integers(100, 700)) if number else 2700
        digit = Image.fromarray(pixels).resize((side, side), _ENLARGERS[random.integers(3)])
        width, height = (int(side * share) for share in random.uniform(1, 1.3, 2))
        picture = Image.new("L", (width, height), int(np.median(pixels[[0, 0, -1], [0, -1, 0]])))
        picture.paste(digit, ((width - side) // 2, (height - side) // 2))
        if random.random() < 0.4:
            picture = Image.blend(picture, photographs[number % 2].resize(picture.size), 0.15)
        file = BytesIO()
        mode = "L" if random.random() < 0.3 else "RGB"
        picture.convert(mode).save(file, "JPEG", quality=int(random.integers(30, 96)))
        yield file.getvalue()

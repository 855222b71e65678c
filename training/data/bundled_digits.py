"""The handwritten digits that scikit-learn bundles, 1,797 images of 8 × 8 pixels.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998:
the part of that data set that its authors kept for testing, from 13 writers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

_LEVELS = 16  # scale of the data: 0 is paper, 16 is ink


def bundled_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digits, u8 [N, 8, 8], light ink on dark paper, and their labels, i64 [N]."""
    data = load_digits()
    pixels: NDArray[np.uint8] = (data.images * (255 / _LEVELS)).round().astype(np.uint8)
    return pixels, data.target.astype(np.int64)

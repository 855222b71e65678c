"""The interface of image sources, and the choice of a recipe's source.

A source returns pixels for training and raw files for evaluation: an evaluated image always goes through
`service.tasks`, as a client's file does.

Letters in shapes: `N` images, `h` `w` stored size, `H` `W` the graph's size, `C` channels, `B` batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from service.repository.manifest import ImageInput
from service.tasks import Limits
from service.tasks.image.preprocessing import decode_image
from training.recipes.image_recipe import DigitsData, ImageRecipe

if TYPE_CHECKING:
    import torch

    from training.images.redraw import Redrawing


class Augmentation(Protocol):
    """Augments training images, a whole batch at once."""

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the part of the augmentation without random numbers once for all images.

        Args:
            pixels: u8 [N, h, w, C], as the source stores them.

        Returns:
            One row per image, in any form that `__call__` takes.
        """

    def __call__(self, pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch.

        Args:
            pictures: B rows that `prepare` returned.
            generator: Source of all random numbers.

        Returns:
            f32 [B, H, W, C], integers 0–255.
        """


class ImageSource(Protocol):
    """Labelled images.

    Attributes:
        classes: The label texts.
        labels: i64 [N], indices into `classes`.
        pixels: u8 [N, h, w, C]: images for the augmentation.
        extra_pixels: u8 [M, h, w, C]: further training images, never evaluated; M may be 0.
        extra_labels: i64 [M].
        description: What the data are, for provenance and card.
        redrawings: Number of redrawn files per evaluated image; 0 if the source cannot redraw.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    extra_pixels: NDArray[np.uint8]
    extra_labels: NDArray[np.int64]
    description: str
    redrawings: int

    def files(self, indices: NDArray[np.int64]) -> list[bytes]:
        """Return images as raw files."""

    def redrawn(self, indices: NDArray[np.int64], seed: int) -> list[Redrawing]:
        """Return images redrawn as people send them, `redrawings` of each, those of one image together."""

    def augmentation(self) -> Augmentation:
        """Return the augmentation for this source's training images."""


def open_source(recipe: ImageRecipe) -> ImageSource:
    """Load the images of a recipe.

    Raises:
        DataRejected: The data cannot be trained on; the text names the file or folder.
    """
    if isinstance(recipe.data, DigitsData):
        from training.images.digits import Digits  # noqa: PLC0415  (scikit-learn is slow to import)

        return Digits(recipe.data, recipe.input, seed=recipe.split.seed)
    from training.images.image_folder import ImageFolder  # noqa: PLC0415

    return ImageFolder(recipe.data, recipe.input)


def decode_files(files: Sequence[bytes], spec: ImageInput) -> NDArray[np.uint8]:
    """Decode raw files exactly as the service does.

    Returns:
        u8 [N, H, W, C].
    """
    limit = Limits().max_pixels
    return np.stack([decode_image(file, spec, max_pixels=limit) for file in files])

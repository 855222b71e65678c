"""What every source of pictures provides, and how a recipe's source is opened.

A source gives pixels to learn from and raw files to be judged by: an evaluated picture always goes
the way of a client's, from a file through `service.tasks`.

Letters in shapes: `N` pictures, `h` `w` stored size, `H` `W` the graph's size, `C` channels, `B` batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from service.repository.manifest import ImageInput
from service.tasks import Limits
from service.tasks.image.preprocessing import decode_image
from training.recipes.recipe import DigitsData, PictureRecipe

if TYPE_CHECKING:
    import torch

    from training.images.redraw import Redrawing


class Augmentation(Protocol):
    """Varies training pictures, a whole batch at once."""

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Do once for every picture what needs no random number.

        Args:
            pixels: u8 [N, h, w, C], as the source stores them.

        Returns:
            One row a picture, in whatever form `__call__` wants it.
        """

    def __call__(self, pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Vary a batch.

        Args:
            pictures: B rows of what `prepare` returned.
            generator: Where every random number comes from.

        Returns:
            f32 [B, H, W, C], whole numbers 0–255.
        """


class PictureSource(Protocol):
    """Labelled pictures.

    Attributes:
        classes: The label texts.
        labels: i64 [N], indices into `classes`.
        pixels: u8 [N, h, w, C]: what is varied for training.
        extra_pixels: u8 [M, h, w, C]: learnt from beside the training part, never held out; M may be 0.
        extra_labels: i64 [M].
        description: What the data is, for provenance and card.
        redrawings: Redrawn pictures a held-out picture; 0 where the source cannot redraw.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    extra_pixels: NDArray[np.uint8]
    extra_labels: NDArray[np.int64]
    description: str
    redrawings: int

    def files(self, indices: NDArray[np.int64]) -> list[bytes]:
        """Give pictures as raw files."""

    def redrawn(self, indices: NDArray[np.int64], seed: int) -> list[Redrawing]:
        """Give pictures redrawn as people send them: `redrawings` of each, one picture's side by side."""

    def augmentation(self) -> Augmentation:
        """Make what varies training pictures of this source."""


def open_source(recipe: PictureRecipe) -> PictureSource:
    """Load the pictures that a recipe names.

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

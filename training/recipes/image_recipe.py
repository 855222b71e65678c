"""Recipes for image classification: the bundled digits, or a folder of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from service.repository.manifest import ImageInput
from training.recipes.recipe import Recipe, Strict


class DigitsData(Strict):
    """The handwritten digits that scikit-learn bundles.

    Attributes:
        redrawings: Number of redrawn images per evaluated digit.
        drawn: Number of drawings of each digit that are added to the training part.
    """

    kind: Literal["digits"] = "digits"
    redrawings: Annotated[int, Field(ge=1, le=100)] = 5
    drawn: Annotated[int, Field(ge=0, le=1000)] = 0


class FolderData(Strict):
    """A folder of image files, one sub-folder per class.

    Attributes:
        path: The folder; relative to the current folder.
        unreadable: Whether a file that cannot be decoded is an error, or is skipped and counted.
        mirror: Whether a mirrored image still shows its class.
    """

    kind: Literal["folder"] = "folder"
    path: Path
    unreadable: Literal["error", "skip"] = "error"
    mirror: bool = False


class NetworkSize(Strict):
    """Size of the residual network.

    Attributes:
        widths: Channels of each stage; every stage halves height and width of the one before.
        blocks: Residual blocks per stage.
        dropout: Share of features dropped before the last layer in training.
    """

    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (24, 48, 96)
    blocks: Annotated[int, Field(ge=1)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class ImageRecipe(Recipe):
    """A recipe for image classification.

    Attributes:
        input: The graph's input, as in `version.yaml`.
    """

    data: Annotated[DigitsData | FolderData, Field(discriminator="kind")]
    input: ImageInput
    network: NetworkSize = NetworkSize()

    def data_at(self, path: Path) -> dict[str, object]:
        """Return data of another folder of images."""
        kept = self.data.model_dump(mode="json") if self.data.kind == "folder" else {}
        return {**kept, "kind": "folder", "path": str(path)}

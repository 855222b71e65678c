"""Recipes for object detection: composed scenes of digits, or a folder in COCO's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.repository.manifest import ImageInput
from training.recipes.recipe import Recipe, Strict

STEPS_OF_STRIDE = 32  # the network halves its input five times


class ScenesData(Strict):
    """Scenes composed from the bundled digits.

    Attributes:
        train: Training scenes; they are composed once and kept in the runs folder.
        validation: Validation scenes.
        test: Test scenes.
        drawn: Drawings of each digit that are added to the training digits.
        wallpapers: Folder of photographs as backgrounds of training and validation scenes, if it exists; else
            there is only the one that scikit-learn bundles. `kotae-train data wallpapers` fetches some. Test
            scenes never have them.
    """

    kind: Literal["scenes"] = "scenes"
    train: Annotated[int, Field(ge=1)] = 12000
    validation: Annotated[int, Field(ge=1)] = 200
    test: Annotated[int, Field(ge=1)] = 400
    drawn: Annotated[int, Field(ge=0, le=1000)] = 40
    wallpapers: Path | None = None


class CocoData(Strict):
    """Images with boxes in COCO's format.

    Attributes:
        path: The data set's folder, in a layout that `training.detection.coco_layout` knows, or its JSON
            file; relative to the current folder.
        images: Folder of the training images; None searches for it.
        validation: JSON file of the validation part; None takes the folder's own, or else a share.
        test: JSON file of the test part; None as for validation.
        mirror: Whether a mirrored image still shows the same objects.
    """

    kind: Literal["coco"] = "coco"
    path: Path
    images: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    mirror: bool = False


class DetectorSize(Strict):
    """Size of the detector.

    Attributes:
        stem: Channels at half the input's size.
        widths: Channels at a quarter, an eighth, a sixteenth and a thirty-second of it.
        blocks: Residual blocks at each of these sizes.
        neck: Channels of the features before the heads.
        slots: Most detections per image.
    """

    stem: Annotated[int, Field(ge=1)] = 24
    widths: Annotated[tuple[int, ...], Field(min_length=4, max_length=4)] = (40, 80, 112, 128)
    blocks: Annotated[tuple[int, ...], Field(min_length=4, max_length=4)] = (1, 2, 2, 1)
    neck: Annotated[int, Field(ge=1)] = 64
    slots: Annotated[int, Field(ge=1, le=1000)] = 64


class DetectionRecipe(Recipe):
    """A recipe for object detection.

    Attributes:
        input: The graph's input, as in `version.yaml`.
        train_size: Side of the training images in pixels. Scenes are composed smaller, not scaled down, so
            that digits keep their size; images of a folder are scaled.
        bfloat16: Whether convolutions are trained in bfloat16; the weights stay float32.
    """

    data: Annotated[ScenesData | CocoData, Field(discriminator="kind")]
    input: ImageInput
    train_size: Annotated[int, Field(ge=STEPS_OF_STRIDE)]
    network: DetectorSize = DetectorSize()
    bfloat16: bool = True

    @model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        for name in ("width", "height"):
            if getattr(self.input, name) % STEPS_OF_STRIDE:
                raise ValueError(f"input.{name} must be a multiple of {STEPS_OF_STRIDE}")
        if self.train_size % STEPS_OF_STRIDE:
            raise ValueError(f"train_size must be a multiple of {STEPS_OF_STRIDE}")
        if self.input.channels != 3 or self.input.resize != "letterbox":
            raise ValueError("input must have channels: 3 and resize: letterbox")
        return self

    def data_at(self, path: Path) -> dict[str, object]:
        """Return data of a folder or a JSON file in COCO's format."""
        mirror = self.data.kind == "coco" and self.data.mirror
        return {"kind": "coco", "path": str(path), "mirror": mirror}

    @property
    def training_input(self) -> ImageInput:
        """The input for training images."""
        return self.input.model_copy(update={"width": self.train_size, "height": self.train_size})

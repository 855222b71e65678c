"""A recipe as typed classes: everything that a training run depends on, in one YAML file.

A key that is not in a class is an error. The parts `manifest` and `input` are the service's own
classes, so what a recipe says is what the model folder will say.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.repository.manifest import ImageInput, ModelManifest
from training.errors import DataRejected


class Strict(BaseModel):
    """Values that do not change, with no key but the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DigitsData(Strict):
    """The handwritten digits that scikit-learn bundles.

    Attributes:
        redrawings: How many redrawn pictures of each held-out digit are evaluated.
        drawn: How many drawings of each digit are learnt from beside the training part.
    """

    kind: Literal["digits"] = "digits"
    redrawings: Annotated[int, Field(ge=1, le=100)] = 5
    drawn: Annotated[int, Field(ge=0, le=1000)] = 0


class FolderData(Strict):
    """A folder of picture files, one sub-folder a class.

    Attributes:
        path: The folder; relative to where the command runs.
        unreadable: What a file that does not decode does: stop with its name, or be left out and counted.
        mirror: Whether a mirrored picture still shows its class.
    """

    kind: Literal["folder"] = "folder"
    path: Path
    unreadable: Literal["error", "skip"] = "error"
    mirror: bool = False


class Split(Strict):
    """Shares of the held-out parts, drawn class by class with a seed of their own."""

    test: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    validation: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    seed: int = 0


class NetworkSize(Strict):
    """Size of the residual network.

    Attributes:
        widths: Channels of each stage; every stage halves height and width of the one before.
        blocks: Residual blocks a stage.
        dropout: Share of features dropped before the last layer while training.
    """

    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (24, 48, 96)
    blocks: Annotated[int, Field(ge=1)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Optimisation(Strict):
    """How the weights are found: AdamW, a warm-up, then a cosine down to nothing.

    Attributes:
        passes: Times that an epoch goes through the training part, varied anew each time.
        least_steps: Optimiser steps that an epoch has at least: small training parts are repeated for it.
        learning_rate: The highest, reached after the warm-up.
        warm_up: Share of all steps over which the learning rate rises.
        gradient_clip: Largest norm of the gradient.
        patience: Epochs without a better validation loss after which training stops.
    """

    epochs: Annotated[int, Field(ge=1)] = 30
    passes: Annotated[int, Field(ge=1)] = 1
    least_steps: Annotated[int, Field(ge=1)] = 1
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.02
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    patience: Annotated[int, Field(ge=1)] = 10

    def passes_over(self, pictures: int) -> int:
        """Tell how often an epoch goes through so many training pictures."""
        return max(self.passes, math.ceil(self.least_steps * self.batch_size / pictures))


class Recipe(Strict):
    """What every recipe says; the rest differs by what is learnt from.

    Attributes:
        manifest: What `model.yaml` will say.
        seed: Of weights, order and variation; the split has its own.
        start: Checkpoint, model folder or version to take the first weights from; None starts from scratch.
    """

    manifest: ModelManifest
    split: Split = Split()
    optimisation: Optimisation = Optimisation()
    seed: int = 0
    start: Path | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    def changed(
        self,
        *,
        data: Path | None = None,
        name: str | None = None,
        seed: int | None = None,
        start: Path | None = None,
    ) -> Self:
        """Apply what a command line says over the file; None leaves things as they are.

        A model of another name is not the one that answers its task by default and that is waited for.

        Raises:
            DataRejected: The name cannot be a model's name, or the task's training starts from scratch only.
        """
        content = self.model_dump(mode="json")
        if data is not None:
            content["data"] = self.data_at(data)
            content["manifest"]["description"] = f"Trained on {data.name}."
        if name is not None and name != self.name:
            content["manifest"] |= {"name": name, "default": False, "required": False}
        if seed is not None:
            content["seed"] = seed
        if start is not None:
            content["start"] = str(start)
        try:
            return type(self).model_validate(content)
        except ValidationError as error:
            raise DataRejected(f"the recipe does not allow this: {error.errors()[0]['msg']}") from error

    def data_at(self, path: Path) -> dict[str, object]:
        """Give the key `data` for learning from `path` instead."""
        raise NotImplementedError

    def measured_on(self, recordings: Path) -> Self:
        """Measure on all recordings of a table instead of on a held-out part.

        Raises:
            DataRejected: The model does not hear.
        """
        raise DataRejected(f"{self.manifest.task} has no use for recordings")


class PictureRecipe(Recipe):
    """A recipe for classifying pictures.

    Attributes:
        input: What `version.yaml` will say about the graph's input.
    """

    data: Annotated[DigitsData | FolderData, Field(discriminator="kind")]
    input: ImageInput
    network: NetworkSize = NetworkSize()

    def data_at(self, path: Path) -> dict[str, object]:
        """Learn from another folder of pictures."""
        kept = self.data.model_dump(mode="json") if self.data.kind == "folder" else {}
        return {**kept, "kind": "folder", "path": str(path)}

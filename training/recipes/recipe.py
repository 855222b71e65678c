"""The classes of recipes: all settings of a training run, in one YAML file.

An unknown key is an error. The parts `manifest` and `input` are classes of the service and go into the model
folder unchanged.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.repository.manifest import ModelManifest
from training.errors import DataRejected


class Strict(BaseModel):
    """Immutable values without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Strict):
    """Shares of validation and test part, and the seed of their choice."""

    test: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    validation: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    seed: int = 0


class Optimisation(Strict):
    """Settings of the optimizer: AdamW, a warm-up, then cosine decay.

    Attributes:
        passes: Passes over the training part in an epoch, with a new augmentation in each.
        least_steps: Fewest optimizer steps of an epoch: small training parts are repeated.
        learning_rate: The highest one, reached after the warm-up.
        warm_up: Share of all steps in which the learning rate rises.
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
        """Return the passes of an epoch over so many training items."""
        return max(self.passes, math.ceil(self.least_steps * self.batch_size / pictures))


class Recipe(Strict):
    """The settings that every recipe has.

    Attributes:
        manifest: The content of `model.yaml`.
        seed: Seed of weights, order and augmentation; the split has its own.
        start: Checkpoint, model folder or version with pretrained weights; None trains from scratch.
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
        """Return the recipe with options of the command line; None keeps a setting.

        A model with another name is neither its task's default nor required.

        Raises:
            DataRejected: The name cannot be a model's name, or the task cannot start from pretrained weights.
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
        """Return the key `data` for training on `path` instead."""
        raise NotImplementedError

    def measured_on(self, recordings: Path) -> Self:
        """Return the recipe for an evaluation on all recordings of a table.

        Raises:
            DataRejected: The model does not take sounds.
        """
        raise DataRejected(f"{self.manifest.task} has no use for recordings")

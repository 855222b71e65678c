"""What belongs to one host: settings of models that a tuner found there, in a file of their own.

The model folder says what is right everywhere and may be read-only; this file, named by
`KOTAE_OVERRIDES`, says what is best here. It is read once, at the start. Nothing of it changes an answer
but `precision` and `provider`, and each passes the golden check.

    models:
      digits:
        precision: int8
        threads: 2
        batching: {max_items: 16}
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from service.errors import ModelRejected, StartFailed
from service.repository.manifest import Batching, ModelManifest, read


class ModelOverrides(BaseModel):
    """What one host changes about one model.

    Attributes:
        precision: Which variant serves; `auto` is the one that the version lists first for the device.
        provider: What runs the model on GPUs; None is the process's choice.
        lanes: CPU lanes on which the model has an instance; None is the process's number.
        threads: Threads of ONNX Runtime of each such instance; None is the process's number.
        batching: Keys of the manifest's own; those that are not written stay the manifest's.
        answer_cache_bytes: Memory for answers to items that come again; None is the manifest's.
        memory_limit_bytes: Most memory that an instance takes on a GPU; None is the manifest's.
        cuda_graphs: Whether runs are captured on a GPU and replayed, where the graph allows it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    provider: Literal["cuda", "tensorrt"] | None = None
    lanes: Annotated[int, Field(ge=1, le=64)] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    batching: Batching | None = None
    answer_cache_bytes: Annotated[int, Field(ge=0, le=2**40)] | None = None
    memory_limit_bytes: Annotated[int, Field(ge=2**20, le=2**50)] | None = None
    cuda_graphs: bool = True

    def applied_to(self, manifest: ModelManifest) -> ModelManifest:
        """Give the manifest as it holds on this host."""
        changes: dict[str, object] = {}
        if self.batching is not None:
            written = {name: getattr(self.batching, name) for name in self.batching.model_fields_set}
            changes["batching"] = manifest.batching.model_copy(update=written)
        for name in ("answer_cache_bytes", "memory_limit_bytes"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return manifest.model_copy(update=changes) if changes else manifest


class Overrides(BaseModel):
    """The file: what this host changes, by model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, ModelOverrides] = {}

    def of(self, model: str) -> ModelOverrides:
        """Give what is changed about a model."""
        return self.models.get(model, ModelOverrides())

    def with_model(self, model: str, overrides: ModelOverrides) -> Overrides:
        """Give a copy in which a model's are these."""
        return self.model_copy(update={"models": {**self.models, model: overrides}})


def read_overrides(path: Path | None) -> Overrides:
    """Read the file; None gives no overrides.

    Raises:
        StartFailed: It is not there, is not YAML, or holds something unknown or out of range.
    """
    if path is None:
        return Overrides()
    try:
        return read(path, Overrides)
    except ModelRejected as error:
        raise StartFailed(f"overrides: {error}") from error


def write_overrides(path: Path, overrides: Overrides) -> None:
    """Write the file with what was set, and nothing that was not; a reader never sees half of it."""
    content = overrides.model_dump(mode="json", exclude_unset=True)
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(draft, path)

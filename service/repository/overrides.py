"""Overrides: settings of models for one host, such as those that `kotae tune` finds.

The model folder has the settings for all hosts and may be read-only. The overrides file, named by
`KOTAE_OVERRIDES`, has the settings for this host. It is read once, at the start. Only `precision` and
`provider` can change answers, and both pass the golden check.

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
    """The overrides of one model.

    Attributes:
        precision: The variant that serves; `auto` is the version's first one for the device.
        provider: What runs the model on GPUs; None is the process's setting.
        lanes: CPU lanes that have an instance of the model; None is the process's setting.
        threads: ONNX Runtime threads of each CPU instance; None is the process's setting.
        batching: Replaces keys of the manifest's `batching`; missing keys stay as they are.
        answer_cache_bytes: Memory for answers to repeated items; None is the manifest's.
        memory_limit_bytes: Most GPU memory of one instance; None is the manifest's.
        cuda_graphs: Whether runs on a GPU are captured as CUDA graphs, if the shapes are fixed.
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

    def apply_to(self, manifest: ModelManifest) -> ModelManifest:
        """Return the manifest with these overrides."""
        changes: dict[str, object] = {}
        if self.batching is not None:
            written = {name: getattr(self.batching, name) for name in self.batching.model_fields_set}
            changes["batching"] = manifest.batching.model_copy(update=written)
        for name in ("answer_cache_bytes", "memory_limit_bytes"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return manifest.model_copy(update=changes) if changes else manifest


class Overrides(BaseModel):
    """The overrides file: the overrides of each model, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, ModelOverrides] = {}

    def for_model(self, model: str) -> ModelOverrides:
        """Return the overrides of a model; empty ones if the file does not name it."""
        return self.models.get(model, ModelOverrides())

    def with_model(self, model: str, overrides: ModelOverrides) -> Overrides:
        """Return a copy with other overrides of one model."""
        return self.model_copy(update={"models": {**self.models, model: overrides}})


def read_overrides(path: Path | None) -> Overrides:
    """Return the overrides of a file; without a path there are none.

    Raises:
        StartFailed: The file is missing, is not YAML, or has unknown keys or invalid values.
    """
    if path is None:
        return Overrides()
    try:
        return read(path, Overrides)
    except ModelRejected as error:
        raise StartFailed(f"overrides: {error}") from error


def write_overrides(path: Path, overrides: Overrides) -> None:
    """Write the file, without default values, and replace it in one step."""
    content = overrides.model_dump(mode="json", exclude_unset=True)
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(draft, path)

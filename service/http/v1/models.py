"""`GET /v1/models`: the models, as OpenAI's API lists them, with more fields."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from service.errors import NotFound
from service.repository.catalog import Catalog, Model
from service.repository.loader import Version


class VersionEntry(BaseModel):
    """One version of a model."""

    version: str
    state: Literal["loading", "ready", "failed"]
    reason: str
    devices: list[str]
    provider: str
    precision: str | None
    golden_check_error: float | None
    metrics: dict[str, float | str]


class ModelEntry(BaseModel):
    """One model; `id`, `object`, `created` and `owned_by` are OpenAI's fields."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "kotae"
    task: str | None
    description: str
    default: bool
    required: bool
    ready: bool
    reason: str
    version: str | None
    labels: list[str] | None
    versions: list[VersionEntry]


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


def models_router(catalog: Catalog) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.head("", include_in_schema=False)
    @router.get("", summary="List the models")
    async def list_models() -> ModelList:
        return ModelList(data=[_entry(model) for model in catalog.models.values()])

    @router.get("/{model_id:path}", summary="Show one model")
    async def show_model(model_id: str) -> ModelEntry:
        model = catalog.models.get(model_id)
        if model is None:
            raise NotFound(f"there is no model {model_id!r}", param="model")
        return _entry(model)

    return router


def _entry(model: Model) -> ModelEntry:
    manifest, serving = model.manifest, model.serving
    created = serving.facts.created.timestamp() if serving and serving.facts else 0
    return ModelEntry(
        id=model.name,
        created=int(created),
        task=manifest.task if manifest else None,
        description=manifest.description if manifest else "",
        default=bool(manifest and manifest.default),
        required=model.required,
        ready=serving is not None,
        reason=model.problem,
        version=str(serving.number) if serving else None,
        labels=list(serving.task.labels) if serving else None,
        versions=[_version_entry(version) for version in model.versions.values()],
    )


def _version_entry(version: Version) -> VersionEntry:
    return VersionEntry(
        version=str(version.number),
        state=version.state,
        reason=version.reason,
        devices=[str(device) for device in version.devices],
        provider=version.provider,
        precision=version.variant.precision if version.variant else None,
        golden_check_error=version.golden_check_error,
        metrics=version.facts.metrics if version.facts else {},
    )

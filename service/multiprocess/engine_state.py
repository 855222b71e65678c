"""The engine's state as JSON: every version of every model, and every lane.

Each worker keeps a copy (`engine_mirror`), from which it answers the probes and `/v1/models` and exports
metrics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from service.engine.lane.lanes import LaneState
from service.repository.catalog import Catalog, Model
from service.repository.loader import Version

_FOREVER_SECONDS = 1e9  # JSON has no infinity


def describe(catalog: Catalog, lanes: Iterable[LaneState]) -> dict[str, Any]:
    """Return the current state."""
    return {
        "loaded": catalog.loaded,
        "models": {name: _model(model) for name, model in catalog.models.items()},
        "lanes": [
            asdict(lane) | {"silent_seconds": min(lane.silent_seconds, _FOREVER_SECONDS)} for lane in lanes
        ],
    }


def _model(model: Model) -> dict[str, Any]:
    versions = [_version(version) for version in list(model.versions.values())]
    return {"reason": model.reason, "versions": versions}


def _version(version: Version) -> dict[str, Any]:
    queue = version.queue
    return {
        "number": version.number,
        "state": version.state,
        "reason": version.reason,
        "failed_check": version.failed_check,
        "file": version.variant.file if version.variant else None,
        "devices": [asdict(device) for device in version.devices],
        "provider": version.provider,
        "load_seconds": version.load_seconds,
        "golden_check_error": version.golden_check_error,
        "closed": bool(queue and queue.closed),
        "queue_items": queue.queue_items if queue else 0,
        "predicted_wait_seconds": queue.predicted_wait_seconds if queue else 0.0,
        "is_refusing": queue.is_refusing if queue else False,
        "predicted_answer_seconds": queue.predicted_answer_seconds if queue else 0.0,
    }

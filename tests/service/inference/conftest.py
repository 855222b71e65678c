"""The core over real queues and lanes and tiny models, without a server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.backend import Backend, limits_of, open_backend
from service.engine.observer import Observer
from service.inference.core import InferenceCore
from service.inference.decoding_pool import DecodingPool
from service.inference.request import InferenceRequest
from service.settings import Settings
from tests.tiny_models import make_model
from tests.tiny_speech_models import make_keyword_model, make_speech_model
from tests.tiny_text_models import make_text_model


class Service:
    """A core over real queues and lanes, without a server."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(models=folder)
        self.is_open = True
        self.backend: Backend = open_backend(settings, Observer())
        self.pool = DecodingPool(2)
        self.core = InferenceCore(self.backend.catalog, self.pool, limits_of(settings), lambda: self.is_open)
        self.backend.catalog.load()

    def close(self) -> None:
        self.backend.catalog.close("the test is over")
        self.backend.lanes.stop()
        self.pool.shutdown()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of each kind. Tests must not change it."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder, default=True, answer_cache_bytes=100_000)
    make_text_model(folder, "texts", "text-embedding")
    make_keyword_model(folder)
    make_speech_model(folder, deadline_per_second=0.5)
    return folder


@pytest.fixture
async def service(folder: Path) -> AsyncIterator[Service]:
    service = Service(folder)
    yield service
    service.close()


def request(*items: Any, task: str = "image-classification", **fields: Any) -> InferenceRequest:
    """A request that has just been received."""
    return InferenceRequest(task, items=items, received=time.monotonic(), **fields)

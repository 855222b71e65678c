"""The real application over tiny models, driven in-process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings

Start = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture(scope="session")
def start(repository: Path) -> Start:
    """Starts the application with settings of the test's choice, and waits until models are loaded."""

    @contextmanager
    def starting(models: Path = repository, **settings: Any) -> Iterator[TestClient]:
        app = create_app(Settings(models=models, **settings))
        with TestClient(app, raise_server_exceptions=False) as client:
            while not app.state.catalog.loaded:
                client.get("/readyz")
            yield client

    return starting


@pytest.fixture(scope="session")
def client(start: Start) -> Iterator[TestClient]:
    """One application for all tests that change nothing."""
    with start() as client:
        yield client

"""Fixtures shared by all tests: tiny models, and a settings-free environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.engine.devices import cuda_problem
from tests.tiny_models import make_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where no CUDA device can be used, and say why."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    problem = cuda_problem() if marked else None
    for item in marked if problem else []:
        item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {problem}"))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("KOTAE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one valid model, `tiny`. Tests must not change it."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder, default=True)
    return folder

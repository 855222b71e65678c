"""Fixtures shared by all tests: tiny models, and a settings-free environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tiny_models import make_model


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

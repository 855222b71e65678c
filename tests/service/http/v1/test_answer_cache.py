"""A model that keeps answers: an item asked again does not run again, and no version answers for another."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi.testclient import TestClient

from service.repository.manifest import VersionPolicy
from tests.service.http.conftest import Start
from tests.tiny_models import make_model, picture

ROUTE = "/v1/image-classification"


def counted(client: TestClient, name: str, version: str = "1") -> float:
    """A sample of the tiny model; 0 where there is none."""
    found = re.search(
        rf'^{name}{{model="tiny",version="{version}"}} (\S+)', client.get("/metrics").text, re.M
    )
    return float(found[1]) if found else 0.0


def answer(client: TestClient, seed: int, **params: str) -> object:
    response = client.post(ROUTE, content=picture(seed), params=params)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def test_the_same_picture_is_answered_from_the_cache_whatever_its_file_looks_like(
    start: Start, tmp_path: Path
) -> None:
    make_model(tmp_path, answer_cache_bytes=100_000)
    with start(tmp_path) as client:
        first = answer(client, 5)
        assert answer(client, 5) == first
        bmp = client.post(ROUTE, content=picture(5, format="BMP"))  # decodes to the same pixels
        assert bmp.json()["results"] == first
        assert answer(client, 6) != first
        assert counted(client, "kotae_batch_items_sum") == 2
        assert counted(client, "kotae_answer_cache_hits_total") == 2
        assert counted(client, "kotae_answer_cache_misses_total") == 2
        assert 0 < counted(client, "kotae_answer_cache_bytes") <= 100_000


def test_a_version_never_answers_what_another_one_kept(start: Start, tmp_path: Path) -> None:
    every = VersionPolicy(policy="all")
    make_model(tmp_path, seed=0, answer_cache_bytes=100_000, versions=every)
    make_model(tmp_path, version=2, seed=1, answer_cache_bytes=100_000, versions=every)
    with start(tmp_path) as client:
        old = answer(client, 5, version="1")
        new = answer(client, 5)
        assert new != old
        assert (answer(client, 5, version="1"), answer(client, 5)) == (old, new)
        for version in ("1", "2"):
            assert counted(client, "kotae_batch_items_sum", version) == 1


def test_without_the_key_every_request_runs(start: Start, tmp_path: Path) -> None:
    make_model(tmp_path)
    with start(tmp_path) as client:
        assert answer(client, 5) == answer(client, 5)
        assert counted(client, "kotae_batch_items_sum") == 2
        assert "kotae_answer_cache_bytes{" not in client.get("/metrics").text

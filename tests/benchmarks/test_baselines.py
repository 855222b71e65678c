"""The baselines answer what Kotae's own tasks answer for the same weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from benchmarks.fastapi_baseline import fastapi_app, parse_model
from benchmarks.fixed_window_baseline import Window, fixed_window_app
from benchmarks.workloads import FORM_TYPE, form
from service.tasks.image.preprocessing import decode_image
from tests.tiny_models import LABELS, SPEC, picture, probabilities
from tests.tiny_text_models import embedding, make_text_model
from tests.tiny_text_models import probabilities as text_probabilities

Build = Callable[..., FastAPI]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    make_text_model(folder, "vectors", "text-embedding")
    make_text_model(folder, "labels", "text-classification")
    return folder


@pytest.mark.parametrize("build", [fastapi_app, fixed_window_app])
async def test_pictures_and_texts_have_the_right_answers(build: Build, repository: Path, texts: Path) -> None:
    folders = (repository / "tiny" / "1", texts / "vectors" / "1", texts / "labels" / "1")
    app = build([parse_model(str(folder)) for folder in folders], threads=1)
    raws = [picture(seed) for seed in range(5)]
    words = ["hello", "konnichiwa, world", "x"]
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x")
    async with app.router.lifespan_context(app), client:
        headers = {"Content-Type": FORM_TYPE}
        pictures = await asyncio.gather(
            *(client.post("/predict/tiny", content=form(raw), headers=headers) for raw in raws)
        )
        vectors = await asyncio.gather(*(client.post("/predict/vectors", json={"text": t}) for t in words))
        labels = await asyncio.gather(*(client.post("/predict/labels", json={"text": t}) for t in words))
    for raw, response in zip(raws, pictures, strict=True):
        expected = probabilities(decode_image(raw, SPEC, max_pixels=10**6)[np.newaxis])[0]
        answer = response.json()
        assert answer["label"] == LABELS[int(expected.argmax())]
        assert answer["score"] == pytest.approx(expected.max(), abs=1e-5)
    for text, response in zip(words, vectors, strict=True):
        np.testing.assert_allclose(response.json()["embedding"], embedding(text), atol=1e-5)
    for text, response in zip(words, labels, strict=True):
        assert response.json()["score"] == pytest.approx(float(text_probabilities(text).max()), abs=1e-5)


async def test_a_window_closes_when_it_is_full_or_its_time_is_over() -> None:
    ran: list[int] = []

    class Session:
        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            ran.append(len(inputs["x"]))
            return [inputs["x"]]

    window = Window(Session(), max_items=3, window_seconds=0.01)
    worker = asyncio.create_task(window.work())
    rows = await asyncio.gather(*(window.answer({"x": np.full(2 + i, i)}) for i in range(4)))
    worker.cancel()
    assert ran == [3, 1]
    assert [row[0] for row in rows] == [0, 1, 2, 3]
    assert list(rows[0]) == [0, 0, 0, 0]  # padded to the longest of its batch

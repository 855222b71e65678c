"""Real clients and a real server: the OpenAI library, and many texts of mixed lengths at once."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from tests.end_to_end.server import Server, serving
from tests.tiny_text_models import embedding, make_text_model, probabilities

CLIENTS = 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models: Path = tmp_path_factory.mktemp("text-models")
    make_text_model(models, "languages", "text-classification")
    make_text_model(models, "vectors", "text-embedding")
    with serving(models) as server:
        yield server


def test_the_openai_client_embeds_and_lists_models(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none needed", max_retries=0) as client:
        texts = ["hello", "a longer text", "\u65e5\u672c\u8a9e"]
        base64 = client.embeddings.create(model="vectors", input=texts)  # the library's own default
        plain = client.embeddings.create(model="vectors", input=texts, encoding_format="float")
        for text, one, other in zip(texts, base64.data, plain.data, strict=True):
            assert np.allclose(one.embedding, other.embedding, atol=1e-7)
            assert np.allclose(one.embedding, embedding(text), atol=1e-5)
        assert plain.usage.total_tokens > 0
        assert {model.id for model in client.models.list()} == {"languages", "vectors"}
        assert client.models.retrieve("vectors").id == "vectors"
        with pytest.raises(openai.NotFoundError, match="nope"):
            client.embeddings.create(model="nope", input="x")
        with pytest.raises(openai.BadRequestError, match="token ids"):
            client.embeddings.create(model="vectors", input=[1, 2, 3])


async def test_mixed_lengths_from_many_clients_answer_as_alone(server: Server) -> None:
    dice = random.Random(0)
    texts = ["".join(dice.choices("abcdefgh ", k=dice.randint(1, 99))).strip() or "x" for _ in range(960)]
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def visit(number: int) -> None:
            for text in texts[number::CLIENTS]:
                response = await client.post("/v1/text-classification", content=text.encode())
                assert response.status_code == 200, response.text
                got = {p["label"]: p["score"] for p in response.json()["results"][0]["predictions"]}
                assert list(got.values()) == pytest.approx(
                    sorted(probabilities(text), reverse=True), abs=1e-4
                )

        await asyncio.gather(*(visit(number) for number in range(CLIENTS)))
        metrics = (await client.get("/metrics")).text
    ratio = re.search(
        r'kotae_batch_padding_ratio_bucket\{le="1.25",model="languages",version="1"\} (\S+)', metrics
    )
    count = re.search(r'kotae_batch_padding_ratio_count\{model="languages",version="1"\} (\S+)', metrics)
    assert ratio is not None and count is not None
    assert float(ratio[1]) == float(count[1]) > 0, "padding went over its bound"

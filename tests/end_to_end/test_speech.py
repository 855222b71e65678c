"""Real clients and a real server: the OpenAI library in every format, and many recordings at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from tests.end_to_end.server import Server, serving
from tests.tiny_speech_models import RATE, WORDS, make_keyword_model, make_speech_model, speak, wav

CLIENTS = 16
SAID = ["bad", "dad", "had", "cab"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models: Path = tmp_path_factory.mktemp("speech-models")
    make_speech_model(models, "tones", language_model=True)
    make_keyword_model(models, "letters")
    with serving(models) as server:
        yield server


def test_the_openai_client_transcribes_in_every_format(server: Server) -> None:
    samples, times = speak(SAID, pauses=[0.1, 1.0, 0.1, 0.1])
    file = ("said.wav", wav(samples))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none needed", max_retries=0) as client:
        create = client.audio.transcriptions.create
        plain = create(model="tones", file=file)
        assert plain.text == " ".join(SAID)
        assert plain.usage is not None and plain.usage.type == "duration"
        assert create(model="tones", file=file, response_format="text").strip() == " ".join(SAID)
        assert "1\n00:00:00,000 --> " in create(model="tones", file=file, response_format="srt")
        assert create(model="tones", file=file, response_format="vtt").startswith(
            "WEBVTT\n\n00:00:00.000 --> "
        )
        verbose = create(
            model="tones",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
            temperature=0.0,
        )
        assert verbose.duration == pytest.approx(len(samples) / RATE, abs=1e-3)
        assert verbose.words is not None and verbose.segments is not None
        assert [word.word for word in verbose.words] == SAID
        for word, (start, end) in zip(verbose.words, times, strict=True):
            assert word.start == pytest.approx(start, abs=0.2)
            assert word.end == pytest.approx(end, abs=0.2)
        assert [segment.text for segment in verbose.segments] == ["bad dad", "had cab"]
        with create(model="tones", file=file, stream=True) as stream:
            events = list(stream)
        assert events[-1].type == "transcript.text.done" and events[-1].text == " ".join(SAID)
        with pytest.raises(openai.NotFoundError, match="whisper-1"):
            create(model="whisper-1", file=file)
        with pytest.raises(openai.BadRequestError, match="not a known audio format"):
            create(model="tones", file=("said.wav", b"nothing"))


async def test_all_lengths_from_many_clients_answer_as_alone(server: Server) -> None:
    dice = np.random.default_rng(0)
    said = [[str(word) for word in dice.choice(WORDS, dice.integers(1, 40))] for _ in range(120)]
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:

        async def visit(number: int) -> None:
            for words in said[number::CLIENTS]:
                samples, times = speak(words, pauses=0.1)
                response = await client.post("/v1/speech-recognition", content=wav(samples))
                assert response.status_code == 200, response.text
                result = response.json()["results"][0]
                assert result["text"].split() == words
                starts = [word["start"] for word in result["words"]]
                assert starts == pytest.approx([start for start, _ in times], abs=0.1)

        await asyncio.gather(*(visit(number) for number in range(CLIENTS)))
        metrics = (await client.get("/metrics")).text
    labels = 'model="tones",version="1"'
    count = re.search(rf"kotae_batch_padding_ratio_count{{{labels}}} (\S+)", metrics)
    near = re.search(rf'kotae_batch_padding_ratio_bucket{{le="1.25",{labels}}} (\S+)', metrics)
    alone = re.search(rf'kotae_batch_items_bucket{{le="1.0",{labels}}} (\S+)', metrics)
    assert count is not None and near is not None and alone is not None
    assert float(near[1]) == float(count[1]) > 0, "padding went over its bound"
    assert float(alone[1]) < float(count[1]), "nothing was batched"

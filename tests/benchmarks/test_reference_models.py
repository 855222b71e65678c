"""The reference graphs: equal answers alone, in a batch, and from the baseline's float32 graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import graphs, payloads
from benchmarks.fastapi_baseline import normalise, open_session
from benchmarks.onnxruntime_baseline import ONE_BY_ONE, Batches, Engine, make_batches, padded
from benchmarks.reference_models import reference_folder
from benchmarks.workloads import reference_workload, repository_of
from service.repository.catalog import Catalog

SMALL = graphs.EncoderSize(layers=2, width=32, heads=2, inner=64, vocabulary=500)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Keep what is made out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        reference_folder.cache_clear()
        yield
    reference_folder.cache_clear()


def save(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("size", [32, 64])
def test_a_picture_of_bytes_and_one_of_floats_give_the_same_answer(tmp_path: Path, size: int) -> None:
    def build(floats: bool) -> onnx.ModelProto:
        return (
            graphs.tiny_image(as_floats=floats)
            if size == 32
            else graphs.resnet18(size=64, width=8, as_floats=floats)
        )

    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    (ours,) = open_session(save(tmp_path, build(False)), 1).run(None, {"image": pixels})
    (theirs,) = open_session(save(tmp_path, build(True)), 1).run(None, {"image": normalise(pixels)})
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours[0] - ours[1]).max() > 1e-5  # pictures do matter


def test_a_text_alone_has_the_vector_that_it_has_in_a_padded_batch(tmp_path: Path) -> None:
    session = open_session(save(tmp_path, graphs.text_encoder(SMALL)), 1)
    rows = [np.arange(4, 4 + length) for length in (5, 17, 40)]
    parts = [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows]
    (together,) = session.run(None, padded(parts))
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for part, vector in zip(parts, together, strict=True):
        (alone,) = session.run(None, padded([part]))
        np.testing.assert_allclose(alone[0], vector, atol=1e-5)


def test_texts_have_exactly_the_lengths_that_were_drawn() -> None:
    tokens = payloads.vocabulary(3000)
    assert len(tokens) == len(set(tokens)) == 3000
    tokenizer = payloads.tokenizer(tokens, payloads.LONGEST)
    texts = payloads.texts(tokens, 200, seed=3)
    assert [len(tokenizer.encode(text).ids) for text in texts] == payloads.lengths(200, seed=3).tolist()
    assert texts == payloads.texts(tokens, 200, seed=3)


def test_lengths_are_log_normal_between_their_bounds() -> None:
    lengths = payloads.lengths(20_000, seed=0)
    assert (lengths.min(), lengths.max()) == (payloads.SHORTEST, payloads.LONGEST)
    assert np.median(lengths) == pytest.approx(payloads.MEDIAN, abs=1)


def test_the_reference_folders_pass_every_check_of_the_service() -> None:
    workloads = [reference_workload(name, small=True) for name in ("tiny", "small", "resnet18", "minilm")]
    with repository_of(workloads) as models:
        catalog = Catalog.of_folder(models)
        catalog.load()
        assert {name: model.problem for name, model in catalog.models.items()} == dict.fromkeys(
            ("tiny", "small", "resnet18", "minilm"), ""
        )
    assert reference_workload("tiny", small=True) == workloads[0]  # made once


def test_perfect_batches_hold_every_item_once_and_keep_their_bounds() -> None:
    costs = [5, 1, 9, 3, 9, 2, 30]
    by_count = make_batches(costs, Batches("count", 3))
    assert by_count == [[0, 1, 2], [3, 4, 5], [6]]
    by_cost = make_batches(costs, Batches("cost", 10))
    assert sorted(index for batch in by_cost for index in batch) == list(range(7))
    for batch in by_cost:
        assert len(batch) == 1 or len(batch) * max(costs[i] for i in batch) <= 10


def test_the_bare_engine_counts_whole_rounds() -> None:
    workload = reference_workload("minilm", small=True)
    engine = Engine(workload.folder, 1)
    found = engine.rate(workload.items[:10], Batches("count", 4), 0.01, decode=True)
    assert found["rate"] > 0
    assert found["padding"] > 1
    assert engine.rate(workload.items[:10], ONE_BY_ONE, 0.01, decode=False)["padding"] == 1

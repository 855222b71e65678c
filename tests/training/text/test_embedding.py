from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import TASKS, Limits
from tests.training.text.conftest import Shipped, job_in, pair_recipe, said_by
from training.core.card import metrics_of_card
from training.core.samplers import StepNumbers
from training.core.trainer import load_learner
from training.errors import DataRejected
from training.networks.text_encoder import TextEncoder
from training.recipes.text_recipe import Contrast, TextEncoderSize
from training.text.embedding.batches import PairBatches, nearest_centres
from training.text.embedding.learner import TextEncoderLearner, contrast, encode_by_length
from training.text.embedding.metrics import embed, ranks_of, recall
from training.text.embedding.pairs import TokenPairs, document_frequencies, open_pairs, split_sentences
from training.text.embedding.steps import TextEmbeddingSteps
from training.text.tokens import pad


class PowerCut(Exception):
    """Stops a training run in the middle."""


def test_a_version_passes_the_services_golden_check(things_model: Shipped) -> None:
    folder = things_model.version
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = TASKS["text-embedding"](folder, facts)
    run = Session(folder / "model.onnx", Device("cpu")).run
    check_files(folder, facts)
    assert check_arrays(folder, facts.variants[0], task, run)["embedding"] < 1e-5
    check_cases(folder, task, run, Limits())


def test_a_text_alone_has_the_vector_that_it_has_among_others(things_model: Shipped) -> None:
    facts = read(things_model.version / VERSION_FILE, VersionFacts)
    texts = ["red apple", "This bridge is quick. " * 5, "x", "loud flute on an island"]
    together = embed(things_model.version, facts, texts)
    alone = np.concatenate([embed(things_model.version, facts, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_learning_makes_queries_find_their_documents(things_model: Shipped) -> None:
    metrics = read(things_model.version / VERSION_FILE, VersionFacts).metrics
    assert float(metrics["recall_at_10"]) > 0.6  # of 20 documents
    assert float(metrics["recall_at_1"]) > 0.2
    assert metrics["held_out_items"] == 20


def test_what_evaluate_prints_is_what_the_card_shows(
    things_model: Shipped, pair_file: Path, tmp_path: Path
) -> None:
    job = job_in(tmp_path, pair_recipe(pair_file))
    TextEmbeddingSteps(job).evaluate(None, things_model.version.parent, 0)
    printed = said_by(job).strip()
    card = (things_model.version.parent / "README.md").read_text(encoding="utf-8")
    assert printed == metrics_of_card(card)
    assert "the first 8 numbers" in printed
    assert "TF-IDF of character n-grams" in printed


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(pair_file: Path, tmp_path: Path) -> None:
    recipe = pair_recipe(pair_file, epochs=3)
    whole, broken = job_in(tmp_path / "whole", recipe), job_in(tmp_path / "broken", recipe)
    TextEmbeddingSteps(whole).fit(resume=False)
    original = StepNumbers.__iter__

    def cut(self: StepNumbers) -> Iterator[int]:
        if self._epoch == 2:
            raise PowerCut
        yield from original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepNumbers, "__iter__", cut)
        with pytest.raises(PowerCut):
            TextEmbeddingSteps(broken).fit(resume=False)
    TextEmbeddingSteps(broken).fit(resume=True)
    first, second = (load_learner(job.run.last, TextEncoderLearner).state_dict() for job in (whole, broken))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0)


def test_too_few_held_out_pairs_and_models_without_a_version_are_refused(
    pair_file: Path, tmp_path: Path
) -> None:
    recipe = pair_recipe(pair_file)
    with pytest.raises(DataRejected, match="lower candidates"):
        open_pairs(recipe.model_copy(update={"candidates": 500}))
    steps = TextEmbeddingSteps(job_in(tmp_path, recipe))
    with pytest.raises(DataRejected, match="no version"):
        steps.evaluate(None, tmp_path / "nothing", 0)
    with pytest.raises(DataRejected, match="export the checkpoint"):
        steps.evaluate(tmp_path / "best.ckpt", None, 0)


def test_a_rank_counts_the_documents_that_are_nearer_or_as_near() -> None:
    documents = np.eye(3, dtype=np.float32)
    queries = np.array([[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5]], np.float32)
    ranks = ranks_of(queries, documents)
    assert ranks.tolist() == [0, 2, 1]
    assert recall(ranks).at_1 == pytest.approx(1 / 3)
    assert recall(ranks).at_10 == 1


def test_the_loss_is_low_where_each_query_is_nearest_to_its_own_document() -> None:
    vectors = torch.eye(4)
    low, right = contrast(vectors, vectors, torch.tensor(20.0))
    high, wrong = contrast(vectors, vectors.roll(1, 0), torch.tensor(20.0))
    assert float(low) < 1e-4 < float(high)
    assert (float(right), float(wrong)) == (1, 0)


def test_texts_encoded_in_parts_by_length_keep_their_order() -> None:
    torch.manual_seed(0)
    network = TextEncoder(TextEncoderSize(vocabulary=300, width=8, heads=2, dimensions=16), 300).eval()
    ids, mask = (torch.from_numpy(a) for a in pad([np.arange(1, n) for n in (9, 3, 30, 2, 12, 5, 7, 44)]))
    torch.testing.assert_close(encode_by_length(network, ids, mask), network(ids, mask))


def token_pairs(count: int) -> TokenPairs:
    rows = [np.array([i % 50 + 1, i % 7 + 1, 3, 4]) for i in range(count)]
    return TokenPairs(rows, [[row, row + 1] for row in rows], np.arange(count) // 4)


def batches_of(siblings: float, alike: float) -> PairBatches:
    vectors = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    wanted = Contrast(siblings=siblings, alike=alike, pieces=0)
    return PairBatches(token_pairs(64), wanted, batch_size=16, seed=0, encode=lambda rows: vectors)


def test_an_epoch_has_every_pair_once() -> None:
    batches = batches_of(0, 0)
    seen = torch.cat([batches[step][0][:, 0] for step in range(batches.steps)])
    assert sorted(seen.tolist()) == sorted(i % 50 + 1 for i in range(64))


def test_batches_of_siblings_keep_groups_together() -> None:
    ids = batches_of(1, 0)[0][0]
    members = {(a, b) for a, b in zip(ids[:, 0].tolist(), ids[:, 1].tolist(), strict=True)}
    groups = [[(i % 50 + 1, i % 7 + 1) for i in range(g * 4, g * 4 + 4)] for g in range(16)]
    assert sum(all(pair in members for pair in group) for group in groups) == 4


def test_documents_that_are_alike_are_put_side_by_side_from_the_second_epoch_on() -> None:
    assert batches_of(0, 1)[0][0].shape[0] == 16
    vectors = np.repeat(np.eye(4, dtype=np.float32), 16, axis=0)
    places = nearest_centres(vectors, np.random.default_rng(1))
    assert all(len(set(places[i : i + 16].tolist())) == 1 for i in range(0, 64, 16))
    assert batches_of(0, 1)[5][0].shape[0] == 16


def test_rare_tokens_weigh_more() -> None:
    weights = document_frequencies(token_pairs(64), 60)
    assert weights[50] > weights[3]
    assert (weights > 0).all()


def test_documents_are_split_at_the_ends_of_sentences_and_lines() -> None:
    assert split_sentences("One. Two!\nThree: four") == ["One.", "Two!", "Three:", "four"]
    assert split_sentences("no end") == ["no end"]

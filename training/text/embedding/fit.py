"""Fitting a text encoder: pairs and a recipe -> the best checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.utils.data import DataLoader

from training.core.trainer import Run, begin, train
from training.recipes.text_recipes import TextEmbeddingRecipe
from training.text.classification.windows import StepNumbers
from training.text.embedding.batches import PairBatches, Vectors
from training.text.embedding.learner import PairLearner
from training.text.embedding.pairs import PairData, TokenPairs, frequencies, make_tokenizer, tokenise
from training.text.tokens import Ids, pad

_AT_ONCE = 256


def fit_pairs(
    recipe: TextEmbeddingRecipe, data: PairData, run: Run, console: Console, *, resume: bool = False
) -> Path:
    """Train a text encoder; returns the best checkpoint.

    Raises:
        DataRejected: There is nothing to resume.
    """
    begin(run, recipe.seed, resume=resume)
    tokenizer = make_tokenizer(recipe, data)
    learnt, kept = (
        tokenise(tokenizer, data.table, part) for part in (data.parts.train, data.parts.validation)
    )
    wanted = recipe.optimisation
    steps = wanted.epochs * max(1, len(learnt.queries) // min(wanted.batch_size, len(learnt.queries)))
    vocabulary = tokenizer.get_vocab_size()
    learner = PairLearner(recipe.model_dump(mode="json"), tokenizer.to_str(), vocabulary, steps)
    learner.graph.start_weights(frequencies(learnt, vocabulary))
    batches = PairBatches(
        learnt,
        recipe.contrast,
        batch_size=wanted.batch_size,
        seed=recipe.seed,
        encode=lambda documents: encode_rows(learner, documents, recipe.contrast.document_tokens),
    )
    training = DataLoader(batches, batch_size=None, sampler=StepNumbers(batches.steps))
    return train(learner, (training, _held_out(kept, recipe)), recipe, run, console, resume=resume)


def encode_rows(learner: PairLearner, rows: list[Ids], most_tokens: int) -> Vectors:
    """Encode texts with PyTorch, those of like length together; returns f32 [M, D]."""
    learning = learner.training
    learner.eval()
    vectors = np.zeros((len(rows), learner.recipe.network.dimensions), dtype=np.float32)
    order = np.argsort([len(row) for row in rows], kind="stable")
    with torch.inference_mode():
        for part in np.array_split(order, -(-len(order) // _AT_ONCE)):
            ids, mask = pad([rows[i] for i in part.tolist()], most_tokens)
            vectors[part] = learner.graph(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    learner.train(learning)
    return vectors


def _held_out(pairs: TokenPairs, recipe: TextEmbeddingRecipe) -> DataLoader[Any]:
    """Make batches of the validation part, in its order."""
    size = min(recipe.optimisation.batch_size, len(pairs.queries))
    rows = list(range(0, len(pairs.queries) - size + 1, size))
    batches = []
    for start in rows:
        members = range(start, start + size)
        query = pad([pairs.queries[i] for i in members], recipe.contrast.query_tokens)
        document = pad([np.concatenate(pairs.documents[i]) for i in members], recipe.contrast.document_tokens)
        batches.append(tuple(torch.from_numpy(array) for array in (*query, *document)))
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

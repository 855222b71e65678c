"""The training of the text encoder: data and recipe become batches and a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from training.core.fit import TrainingSetup
from training.core.samplers import StepNumbers
from training.recipes.text_recipe import TextEmbeddingRecipe
from training.text.embedding.batches import PairBatches, Vectors
from training.text.embedding.learner import TextEncoderLearner
from training.text.embedding.pairs import PairData, TokenPairs, document_frequencies, make_tokenizer, tokenize
from training.text.tokens import Ids, pad

_ENCODING_BATCH = 256


def set_up_training(recipe: TextEmbeddingRecipe, data: PairData) -> TrainingSetup:
    """Return network and batches for a training."""
    settings, tokenizer = recipe.optimisation, make_tokenizer(recipe, data)
    training, validation = (
        tokenize(tokenizer, data.table, part) for part in (data.parts.train, data.parts.validation)
    )
    batches = PairBatches(
        training,
        recipe.contrast,
        batch_size=settings.batch_size,
        seed=recipe.seed,
        encode=lambda documents: encode_rows(learner, documents, recipe.contrast.document_tokens),
    )
    vocabulary = tokenizer.get_vocab_size()
    learner = TextEncoderLearner(
        recipe.model_dump(mode="json"), tokenizer.to_str(), vocabulary, settings.epochs * batches.steps
    )
    learner.graph.start_weights(document_frequencies(training, vocabulary))
    loader = DataLoader(batches, batch_size=None, sampler=StepNumbers(batches.steps))
    return TrainingSetup(learner, loader, _validation(validation, recipe))


def encode_rows(learner: TextEncoderLearner, rows: list[Ids], most_tokens: int) -> Vectors:
    """Encode M texts with PyTorch, texts of similar length together; return f32 [M, D]."""
    was_training = learner.training
    learner.eval()
    vectors = np.zeros((len(rows), learner.recipe.network.dimensions), dtype=np.float32)
    order = np.argsort([len(row) for row in rows], kind="stable")
    with torch.inference_mode():
        for part in np.array_split(order, -(-len(order) // _ENCODING_BATCH)):
            ids, mask = pad([rows[i] for i in part.tolist()], most_tokens)
            vectors[part] = learner.graph(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    learner.train(was_training)
    return vectors


def _validation(pairs: TokenPairs, recipe: TextEmbeddingRecipe) -> DataLoader[Any]:
    """Return batches of the validation part, in its order."""
    size = min(recipe.optimisation.batch_size, len(pairs.queries))
    batches = []
    for start in range(0, len(pairs.queries) - size + 1, size):
        members = range(start, start + size)
        query = pad([pairs.queries[i] for i in members], recipe.contrast.query_tokens)
        document = pad([np.concatenate(pairs.documents[i]) for i in members], recipe.contrast.document_tokens)
        batches.append(tuple(torch.from_numpy(array) for array in (*query, *document)))
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

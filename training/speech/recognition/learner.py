"""The training module of speech recognition.

Letters in shapes: `N` batch, `T` samples, `L` letters of the whole batch, `F` frames, `V` tokens.
"""

from __future__ import annotations

from typing import Any

import jiwer
import torch
from torch.nn import functional

from training.core.learner import Batch
from training.networks.speech_encoder import SpeechEncoder
from training.recipes.speech_recipe import SpeechRecipe
from training.speech.learner import SoundLearner
from training.speech.recognition.tokens import BETWEEN_WORDS, best_path

_MIDDLE = 0.3  # weight of the middle block's loss (arXiv:2102.03216, section 4)


class SpeechLearner(SoundLearner[SpeechRecipe, SpeechEncoder]):
    """A speech network with everything that its training needs.

    Args:
        recipe: The recipe as plain values, from `SpeechRecipe.model_dump(mode="json")`.
        tokens: V letters, the blank first.
        steps: Optimizer steps of the whole training.
    """

    def __init__(self, recipe: dict[str, Any], tokens: list[str], steps: int) -> None:
        checked = SpeechRecipe.model_validate(recipe)
        graph = SpeechEncoder(checked.network, checked.input.sample_rate, len(tokens))
        super().__init__(checked, graph, steps, tokens)
        self.save_hyperparameters()

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Return the loss on audio i16 [N, T], lengths i64 [N], letters i64 [L] and their counts i64 [N]."""
        audio, lengths, letters, counts = batch
        features, frames = self.features(audio, lengths, augmented=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            logits, middle, frames = self.graph.logits(features, frames)
        loss = (1 - _MIDDLE) * ctc_loss(logits, frames, letters, counts)
        loss = loss + _MIDDLE * ctc_loss(middle, frames, letters, counts)
        self.log_training(len(lengths), {"loss": loss}, each_step=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure sounds without augmentation, with greedy decoding."""
        audio, lengths, letters, counts = batch
        logits, _, frames = self.graph.logits(*self.features(audio, lengths))
        self.log_validation(len(lengths), {"loss": ctc_loss(logits, frames, letters, counts)})
        heard = [
            best_path(row[:count].numpy(), self.labels)
            for row, count in zip(logits, frames.tolist(), strict=True)
        ]
        texts = [
            "".join(self.labels[number] for number in part.tolist()).replace(BETWEEN_WORDS, " ")
            for part in torch.split(letters, counts.tolist())
        ]
        words = sum(len(text.split()) for text in texts)
        self.log_validation(words, {"wer": float(jiwer.wer(texts, heard))})


def ctc_loss(
    logits: torch.Tensor, frames: torch.Tensor, letters: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return the loss of connectionist temporal classification, the mean per letter and utterance.

    An utterance with too few frames for its letters counts 0.

    Args:
        logits: f32 [N, F, V].
        frames: i64 [N].
        letters: i64 [L].
        counts: i64 [N], whose sum is L.
    """
    log_probs = functional.log_softmax(logits, dim=2).transpose(0, 1)
    return functional.ctc_loss(log_probs, letters, frames, counts, zero_infinity=True)

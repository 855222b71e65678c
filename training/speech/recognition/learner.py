"""The speech network while it learns.

Letters in shapes: `N` batch, `T` samples, `L` letters of the whole batch, `F` frames, `V` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jiwer
import torch
from lightning.pytorch import LightningModule
from torch.nn import functional

from training.images.learner import make_optimiser
from training.networks.speech_encoder import SpeechEncoder
from training.recipes.speech_recipes import SpeechRecipe
from training.speech.augmentation import mask_features, vary
from training.speech.batches import place_among_processes
from training.speech.recognition.tokens import BETWEEN_WORDS, best_path

Batch = Sequence[torch.Tensor]
FULL_SCALE = 32768.0
_MIDDLE = 0.3  # share of the loss that is the middle block's (arXiv:2102.03216, section 4)


class SpeechLearner(LightningModule):
    """A speech network with what it takes to train it; a checkpoint can be exported by itself.

    Args:
        recipe: As `SpeechRecipe.model_dump(mode="json")` gives it.
        tokens: V letters, the blank first.
        steps: Optimiser steps of the whole training.
    """

    def __init__(self, recipe: dict[str, Any], tokens: list[str], steps: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.recipe = SpeechRecipe.model_validate(recipe)
        self.tokens = tuple(tokens)
        self.graph = SpeechEncoder(self.recipe.network, self.recipe.input.sample_rate, len(tokens))
        self._steps = steps

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Learn from audio i16 [N, T], lengths i64 [N], letters i64 [L] and how many each has, i64 [N].

        Every step of every process draws from its own generator, so that a resumed run goes on with the
        same sounds.
        """
        audio, lengths, letters, counts = batch
        place, processes = place_among_processes()
        drawn = self.global_step * processes + place
        generator = torch.Generator().manual_seed((self.recipe.seed << 32) + drawn)
        with torch.no_grad():
            rate = self.recipe.input.sample_rate
            audio, lengths = vary(audio.float() / FULL_SCALE, lengths, generator, rate)
            features, frames = self.graph.log_mel(audio, lengths)
            features = mask_features(features.transpose(1, 2), frames, generator).transpose(1, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            logits, middle, frames = self.graph.heard(features, frames)
        loss = (1 - _MIDDLE) * ctc_loss(logits, frames, letters, counts)
        loss = loss + _MIDDLE * ctc_loss(middle, frames, letters, counts)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(lengths))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure on sounds as they are, letter by letter."""
        audio, lengths, letters, counts = batch
        features, frames = self.graph.log_mel(audio.float() / FULL_SCALE, lengths)
        logits, _, frames = self.graph.heard(features, frames)
        loss = ctc_loss(logits, frames, letters, counts)
        self.log("validation_loss", loss, prog_bar=True, batch_size=len(lengths))
        heard = [
            best_path(row[:count].numpy(), self.tokens)
            for row, count in zip(logits, frames.tolist(), strict=True)
        ]
        texts = [
            "".join(self.tokens[number] for number in part.tolist()).replace(BETWEEN_WORDS, " ")
            for part in torch.split(letters, counts.tolist())
        ]
        words = sum(len(text.split()) for text in texts)
        self.log("validation_wer", float(jiwer.wer(texts, heard)), prog_bar=True, batch_size=words)

    def configure_optimizers(self) -> Any:
        """Make AdamW and its schedule."""
        return make_optimiser(self, self.recipe.optimisation, self._steps)


def ctc_loss(
    logits: torch.Tensor, frames: torch.Tensor, letters: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Give the loss of connectionist temporal classification, a mean per letter and utterance.

    An utterance that is too short for its letters counts 0.

    Args:
        logits: f32 [N, F, V].
        frames: i64 [N].
        letters: i64 [L].
        counts: i64 [N], which add up to L.
    """
    log_probs = functional.log_softmax(logits, dim=2).transpose(0, 1)
    return functional.ctc_loss(log_probs, letters, frames, counts, zero_infinity=True)

"""The base class of the training modules for sounds: audio becomes augmented features."""

from __future__ import annotations

from typing import TypeVar

import torch

from training.core.learner import Learner
from training.networks.sound_classifier import SoundClassifier
from training.networks.speech_encoder import SpeechEncoder
from training.recipes.speech_recipe import KeywordsRecipe, SpeechRecipe
from training.speech.augmentation import augment, mask_features

_FULL_SCALE = 32768.0
RecipeKind = TypeVar("RecipeKind", bound=KeywordsRecipe | SpeechRecipe)
Network = TypeVar("Network", bound=SoundClassifier | SpeechEncoder)


class SoundLearner(Learner[RecipeKind, Network]):
    """A network over log-mel features with everything that its training needs."""

    head = "head"

    def features(
        self, audio: torch.Tensor, lengths: torch.Tensor, *, augmented: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features of a batch.

        Args:
            audio: i16 [N, T].
            lengths: i64 [N].
            augmented: Whether audio and features are augmented, with the generator of this step.

        Returns:
            f32 [N, B, M], and the frames i64 [N].
        """
        sound = audio.float() / _FULL_SCALE
        if not augmented:
            log_mel: tuple[torch.Tensor, torch.Tensor] = self.graph.log_mel(sound, lengths)
            return log_mel
        generator = self.step_generator()
        with torch.no_grad():
            sound, lengths = augment(sound, lengths, generator, self.recipe.input.sample_rate)
            features, frames = self.graph.log_mel(sound, lengths)
            return mask_features(features.transpose(1, 2), frames, generator).transpose(1, 2), frames

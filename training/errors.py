"""What can go wrong in training, each with a text that says what to do about it.

KotaeError
└── TrainingFailed
├── DataRejected    the pictures or the recipe cannot be trained on
└── ExportFailed    the exported graph is not the network; nothing was written
"""

from __future__ import annotations

from service.errors import KotaeError


class TrainingFailed(KotaeError):
    """A step of training that cannot go on."""


class DataRejected(TrainingFailed):
    """The data or the recipe cannot be trained on; the text names the file or the key."""


class ExportFailed(TrainingFailed):
    """The exported graph does not answer as the network does; nothing was written."""

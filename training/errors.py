"""Errors of training; each text says what to do about it.

KotaeError
└── TrainingFailed
    ├── DataRejected    the data or the recipe cannot be trained on
    └── ExportFailed    the exported graph does not answer as the network does; nothing was written
"""

from __future__ import annotations

from service.errors import KotaeError


class TrainingFailed(KotaeError):
    """A step of training failed."""


class DataRejected(TrainingFailed):
    """The data or the recipe cannot be trained on; the text names the file or the key."""


class ExportFailed(TrainingFailed):
    """The exported graph does not answer as the network does; nothing was written."""

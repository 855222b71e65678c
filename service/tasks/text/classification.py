"""The task `text-classification`: texts in, labels with probabilities out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, cast

from pydantic import BaseModel

from service.repository.manifest import VersionFacts
from service.tasks.classification import Classification, ClassificationParameters, Classifier
from service.tasks.task import Decoded, Limits, Raw, StatedSeconds
from service.tasks.text.tokenization import (
    INPUTS,
    QUICK_CHARACTERS,
    TextParameters,
    TextTokenizer,
    text_from_json,
)


class TextClassificationParameters(ClassificationParameters, TextParameters):
    """Parameters of text classification."""


class TextClassification(Classifier):
    """`text-classification` for one version."""

    name: ClassVar[str] = "text-classification"
    parameters: ClassVar[type[BaseModel]] = TextClassificationParameters
    media_type: ClassVar[str] = "text/plain"
    inputs: ClassVar[Mapping[str, str]] = INPUTS
    outputs: ClassVar[Mapping[str, str]] = {"probabilities": "float32"}
    result: ClassVar[type] = Classification
    stated_seconds: ClassVar[StatedSeconds | None] = None

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        super().__init__(folder, facts)
        self._tokenizer = TextTokenizer(folder, facts)
        self.quick_size = QUICK_CHARACTERS

    @staticmethod
    def from_json(value: object) -> Raw:
        """Return one text."""
        return text_from_json(value)

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Return the token ids of one text; see `TextTokenizer.tokenize`."""
        truncate = cast(TextParameters, parameters).truncate
        return self._tokenizer.tokenize(raw, truncate=truncate, declared_type=declared_type)

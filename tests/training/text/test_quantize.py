"""int8 variants of text models; see `tests/training/test_quantize.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from tests.training.text.conftest import Shipped, job_in, label_recipe, pair_recipe
from training.core.quantize import QuantizationData, QuantizationRequest, quantize_model
from training.core.version_folder import Destination
from training.text.classification.steps import TextClassificationSteps
from training.text.embedding.steps import TextEmbeddingSteps


def quantised(shipped: Shipped, subject: QuantizationData, folder: Path) -> VersionFacts:
    """Quantise a copy of a model, whatever it loses."""
    model = shutil.copytree(shipped.version.parent, folder / shipped.version.parent.name)
    job = job_in(folder, label_recipe(Path()))
    version = quantize_model(
        QuantizationRequest(model, Destination(folder), 100, "kotae-train quantize"), subject, job.console
    )
    return read(version / VERSION_FILE, VersionFacts)


def test_a_text_classifier_is_quantised(words_model: Shipped, label_file: Path, tmp_path: Path) -> None:
    subject = TextClassificationSteps(
        job_in(words_model.folder, label_recipe(label_file))
    ).quantization_data()
    facts = quantised(words_model, subject, tmp_path)
    small, plain = sorted(facts.variants, key=lambda variant: variant.precision, reverse=True)
    assert (small.precision, plain.precision) == ("int8", "fp32")
    assert small.metrics["accuracy"] == pytest.approx(plain.metrics["accuracy"], abs=0.05)
    assert subject.guarded.keys() <= plain.metrics.keys()


def test_a_text_encoder_is_quantised(things_model: Shipped, pair_file: Path, tmp_path: Path) -> None:
    subject = TextEmbeddingSteps(job_in(things_model.folder, pair_recipe(pair_file))).quantization_data()
    facts = quantised(things_model, subject, tmp_path)
    assert {variant.precision for variant in facts.variants} == {"fp32", "int8"}
    assert all(subject.guarded.keys() <= variant.metrics.keys() for variant in facts.variants)

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing

from service.errors import InvalidInput, ModelRejected, TooLarge
from service.repository.manifest import VERSION_FILE, TextInput, VersionFacts, read
from service.tasks import Limits
from service.tasks.text.classification import TextClassification, TextClassificationParameters
from service.tasks.text.embedding import EmbeddingParameters, TextEmbedding, shorten_embedding
from tests.tiny_models import finish_version, make_model
from tests.tiny_text_models import MAX_TOKENS, byte_tokenizer, make_text_model

PARAMETERS = TextClassificationParameters()
CUT = TextClassificationParameters(truncate=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("text"), "t", "text-classification")


@pytest.fixture(scope="module")
def task(folder: Path) -> TextClassification:
    return TextClassification(folder, read(folder / VERSION_FILE, VersionFacts))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> TextEmbedding:
    folder = make_text_model(tmp_path_factory.mktemp("text"), "e", "text-embedding")
    return TextEmbedding(folder, read(folder / VERSION_FILE, VersionFacts))


@given(st.text(min_size=1, max_size=300))
def test_any_text_is_tokenised_within_the_limit_or_refused_by_a_typed_error(
    task: TextClassification, text: str
) -> None:
    try:
        decoded = task.decode(text, Limits(), PARAMETERS)
    except InvalidInput:
        assert not text.strip() or not text.isprintable()
    except TooLarge:
        assert len(text.encode()) > MAX_TOKENS
    else:
        (inputs,) = decoded.parts
        assert decoded.costs == (len(inputs["input_ids"]),) == (len(text.encode()),)
        assert inputs["attention_mask"].all()
        assert 0 not in inputs["input_ids"]


@given(st.text(alphabet="ab\u00e9\u65e5", min_size=1, max_size=400))
def test_a_cut_text_is_the_beginning_of_the_whole_and_says_so(task: TextClassification, text: str) -> None:
    decoded = task.decode(text, Limits(), CUT)
    ids = decoded.parts[0]["input_ids"].tolist()
    assert ids == byte_tokenizer().encode(text).ids[:MAX_TOKENS]
    assert decoded.context["truncated"] is (len(text.encode()) > MAX_TOKENS)


def test_a_cut_text_keeps_the_special_token_at_its_end(tmp_path: Path) -> None:
    version = make_text_model(tmp_path, "t", "text-classification")
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["[SEP]"])
    end = tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", end)])
    tokenizer.save(str(version / "tokenizer.json"))
    task = TextClassification(version, read(version / VERSION_FILE, VersionFacts))
    ids = task.decode("x" * 500, Limits(), CUT).parts[0]["input_ids"]
    assert len(ids) == MAX_TOKENS and ids[-1] == end


def test_a_text_without_any_known_token_is_refused(tmp_path: Path) -> None:
    version = make_text_model(tmp_path, "t", "text-classification")
    Tokenizer(models.WordLevel({"[PAD]": 0, "known": 1}, unk_token="nothing")).save(
        str(version / "tokenizer.json")
    )
    task = TextClassification(version, read(version / VERSION_FILE, VersionFacts))
    with pytest.raises(InvalidInput):
        task.decode("unheard", Limits(), PARAMETERS)


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_tokenizer_that_does_not_load_is_refused(tmp_path: Path, content: str) -> None:
    version = make_text_model(tmp_path, "t", "text-classification")
    (version / "tokenizer.json").write_text(content)
    with pytest.raises(ModelRejected, match=r"tokenizer\.json"):
        TextClassification(version, read(version / VERSION_FILE, VersionFacts))


def test_a_version_for_images_is_no_text_model(tmp_path: Path) -> None:
    version = make_model(tmp_path)
    with pytest.raises(ModelRejected, match="needs text"):
        TextClassification(version, read(version / VERSION_FILE, VersionFacts))


def test_a_classifier_without_labels_is_refused(tmp_path: Path) -> None:
    version = make_text_model(tmp_path, "t", "text-classification")
    finish_version(version, input=TextInput(max_tokens=5), labels=None)
    with pytest.raises(ModelRejected, match="no labels"):
        TextClassification(version, read(version / VERSION_FILE, VersionFacts))


def test_fewer_dimensions_have_length_1_and_more_change_nothing() -> None:
    vector = np.array([0.6, 0.0, 0.8], dtype=np.float32)
    assert shorten_embedding(vector, 1) == pytest.approx([1.0])
    assert shorten_embedding(vector, None) is vector
    assert shorten_embedding(np.zeros(3, dtype=np.float32), 2) == pytest.approx([0, 0])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [([1.0, 0.0], "shape"), ([[1.0, 1.0]], "length 1"), ([[float("nan"), 0.0]], "length 1")],
)
def test_outputs_that_are_no_unit_vectors_are_refused(
    embedder: TextEmbedding, rows: Any, reason: str
) -> None:
    with pytest.raises(ModelRejected, match=reason):
        embedder.check_outputs({"embedding": np.array(rows, dtype=np.float32)})


@pytest.mark.parametrize(
    "expected", [{}, {"embedding": "x"}, {"embedding": [1.0]}, {"embedding": [[1.0, 0.0]]}]
)
def test_a_golden_embedding_of_another_shape_is_refused(
    embedder: TextEmbedding, expected: dict[str, Any]
) -> None:
    assert embedder.agrees(expected, {"embedding": np.array([1.0, 0.0])}, 0.1)


def test_embeddings_agree_within_the_tolerance(embedder: TextEmbedding) -> None:
    got = {"embedding": np.array([0.6, 0.8], dtype=np.float32)}
    assert embedder.agrees({"embedding": [0.6, 0.8]}, got, 1e-3) is None
    problem = embedder.agrees({"embedding": [0.8, 0.6]}, got, 1e-3)
    assert problem is not None and "0.2" in problem


def test_dimensions_of_the_parameters_are_positive() -> None:
    assert EmbeddingParameters(dimensions=1).dimensions == 1
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        EmbeddingParameters(dimensions=0)

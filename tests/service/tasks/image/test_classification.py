"""The task `image-classification`: JSON values, answers, labels and the comparison of answers."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.errors import InvalidInput, ModelRejected, RequestError, TooLarge
from service.repository.manifest import Provenance, Variant, VersionFacts
from service.tasks import TASKS, Decoded, Limits, Task
from service.tasks.classification import ClassificationParameters, classify
from service.tasks.image.classification import ImageClassification
from tests.service.tasks.image_files import (
    encode,
    noise,
    quickly,
    spec,
)

PARAMETERS = ClassificationParameters()

LABELS = ("zero", "one", "two", "three")

# --- the task ---------------------------------------------------------------------------------


def facts(**fields: Any) -> VersionFacts:
    known: dict[str, Any] = {
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "provenance": Provenance(command="tests", data="noise", seed=0),
        "input": spec(channels=1),
        "labels": "labels.txt",
        "variants": (Variant(file="model.onnx", tolerance={"probabilities": 1e-4}),),
        "files": {"model.onnx": "sha256:" + "0" * 64},
    }
    return VersionFacts(**(known | fields))


@pytest.fixture
def task(tmp_path: Path) -> ImageClassification:
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    return ImageClassification(tmp_path, facts())


def test_the_list_of_tasks_holds_the_task_under_its_name(task: Task) -> None:
    assert TASKS[task.name] is ImageClassification


@given(st.binary(max_size=500))
@quickly
def test_base64_gives_the_bytes_that_were_encoded(body: bytes) -> None:
    encoded = base64.b64encode(body).decode()
    assert ImageClassification.from_json(encoded) == body
    assert ImageClassification.from_json(f"data:image/png;base64,{encoded}") == body


@pytest.mark.parametrize(
    "value", ["not base64!", "abc", "päng", "data:image/png;base64,???", "\ud800", "QQ=Q"]
)
def test_text_that_is_not_base64_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="base64"):
        ImageClassification.from_json(value)


@pytest.mark.parametrize("value", [None, 7, 1.5, True, [], {}, ["QQ=="], {"image": "QQ=="}])
def test_a_json_value_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="base64 string"):
        ImageClassification.from_json(value)


def test_decoding_gives_the_inputs_that_the_graph_takes(task: ImageClassification) -> None:
    decoded = task.decode(encode(Image.fromarray(noise(20, 30))), Limits(), PARAMETERS)
    (inputs,) = decoded.parts
    assert {name: str(array.dtype) for name, array in inputs.items()} == dict(task.inputs)
    assert inputs["image"].shape == (8, 8, 1)
    assert decoded.costs == (1,)


def test_decoding_obeys_the_limits(task: ImageClassification) -> None:
    with pytest.raises(TooLarge):
        task.decode(encode(Image.new("L", (10, 10))), Limits(max_pixels=99), PARAMETERS)


def test_text_instead_of_an_image_is_refused(task: ImageClassification) -> None:
    with pytest.raises(RequestError):
        task.decode("a cat", Limits(), PARAMETERS)


def test_an_answer_has_the_best_labels_first(task: ImageClassification) -> None:
    outputs = {"probabilities": np.array([0.1, 0.2, 0.6, 0.1], dtype=np.float32)}
    answer = task.answer([outputs], Decoded((), ()), ClassificationParameters(top_k=2))
    assert answer == {
        "predictions": [
            {"label": "two", "score": pytest.approx(0.6)},
            {"label": "one", "score": pytest.approx(0.2)},
        ]
    }


_scores = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=100)


@given(_scores, st.integers(1, 40))
def test_predictions_are_sorted_complete_and_tell_each_label_its_score(
    scores: list[float], top_k: int
) -> None:
    labels = tuple(f"label {i}" for i in range(len(scores)))
    predictions = classify(np.array(scores, dtype=np.float32), labels, top_k)["predictions"]
    got = [p["score"] for p in predictions]
    assert got == sorted(scores, reverse=True)[:top_k]
    assert all(scores[labels.index(p["label"])] == p["score"] for p in predictions)
    assert len({p["label"] for p in predictions}) == min(top_k, len(scores))


@given(st.integers(1, 30), st.integers(1, 30))
def test_ties_keep_the_order_of_the_labels(count: int, top_k: int) -> None:
    labels = tuple(f"label {i}" for i in range(count))
    predictions = classify(np.full(count, 1 / count, dtype=np.float32), labels, top_k)["predictions"]
    assert [p["label"] for p in predictions] == list(labels[:top_k])


@pytest.mark.parametrize("values", [[0, 1, 0], [1e-45, 1, 0], [3.4e38, -3.4e38, 0], [-0.0, 0.0, 1e-30]])
def test_extreme_scores_are_sorted_as_numbers(values: list[float]) -> None:
    scores = np.array(values, dtype=np.float32)
    got = [p["score"] for p in classify(scores, ("a", "b", "c"), 3)["predictions"]]
    assert got == sorted(scores.tolist(), reverse=True)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "many", None])
def test_top_k_below_one_is_out_of_range(top_k: Any) -> None:
    with pytest.raises(ValueError, match="top_k"):
        ClassificationParameters(top_k=top_k)


def _result(**scores: float) -> dict[str, object]:
    return {"predictions": [{"label": label, "score": score} for label, score in scores.items()]}


def test_near_ties_in_another_order_agree(task: ImageClassification) -> None:
    assert task.agrees(_result(one=0.50, two=0.49), _result(two=0.495, one=0.494, zero=0.01), 0.01) is None


def test_a_score_beyond_the_tolerance_does_not_agree(task: ImageClassification) -> None:
    problem = task.agrees(_result(one=0.5), _result(one=0.52), 0.01)
    assert problem is not None
    assert "'one'" in problem
    assert "0.52" in problem


def test_swapped_labels_do_not_agree(task: ImageClassification) -> None:
    assert task.agrees(_result(one=0.9, two=0.1), _result(two=0.9, one=0.1), 0.01)


def test_a_label_that_is_not_answered_does_not_agree(task: ImageClassification) -> None:
    problem = task.agrees(_result(nine=0.9), _result(one=0.9), 0.01)
    assert problem is not None
    assert "'nine'" in problem


def test_a_score_that_is_no_number_does_not_agree(task: ImageClassification) -> None:
    assert task.agrees(_result(one=0.5), _result(one=float("nan")), 0.01)
    assert task.agrees(_result(one=float("nan")), _result(one=0.5), 0.01)


@pytest.mark.parametrize(
    "expected",
    [{}, {"predictions": []}, {"predictons": []}, {"predictions": [{"label": "one"}]}, {"predictions": 7}],
)
def test_an_expected_answer_that_says_nothing_does_not_agree(
    task: ImageClassification, expected: dict[str, object]
) -> None:
    assert task.agrees(expected, _result(one=1.0), 0.01)


def _outputs(rows: list[list[float]]) -> dict[str, NDArray[np.float32]]:
    return {"probabilities": np.array(rows, dtype=np.float32)}


def test_one_probability_a_label_that_adds_up_to_one_is_valid(task: ImageClassification) -> None:
    task.check_outputs(_outputs([[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([[0.5, 0.5]], r"\[1, 2\] for 4 labels"),
        ([[0.2] * 5], r"\[1, 5\] for 4 labels"),
        ([[0.5, 0.5, 0.5, 0.5]], "add up to 1"),
        ([[0, 0, 0, 0]], "add up to 1"),
        ([[1, 0, 0, 0], [float("nan"), 0, 0, 1]], "add up to 1"),
        ([[float("inf"), 0, 0, 0]], "add up to 1"),
        ([[1.5, -0.5, 0, 0]], "probabilities"),
    ],
)
def test_outputs_that_are_no_probabilities_of_the_labels_are_refused(
    task: ImageClassification, rows: list[list[float]], named: str
) -> None:
    with pytest.raises(ModelRejected, match=named):
        task.check_outputs(_outputs(rows))


def test_outputs_without_a_batch_axis_are_refused(task: ImageClassification) -> None:
    with pytest.raises(ModelRejected):
        task.check_outputs({"probabilities": np.array([1, 0, 0, 0], dtype=np.float32)})


@pytest.mark.parametrize("content", [b"", b"\n", b"one\n\ntwo\n", b"one\none\n", b"\xff\xfe"])
def test_a_file_of_labels_that_says_nothing_sure_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ModelRejected, match=r"labels\.txt"):
        ImageClassification(tmp_path, facts())


def test_a_file_of_labels_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"labels\.txt"):
        ImageClassification(tmp_path, facts())


@pytest.mark.parametrize(
    "content",
    ["one\ntwo", "one\ntwo\n", "one\r\ntwo\r\n", "\ufeffone\ntwo\n"],
    ids=["no last newline", "newline", "windows", "byte order mark"],
)
def test_labels_are_read_as_lines_whatever_wrote_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content.encode())
    assert ImageClassification(tmp_path, facts()).labels == ("one", "two")


def test_a_label_may_hold_any_word(tmp_path: Path) -> None:
    labels = ("New York", "答え", "a\u2028b", "x\x0cy", "7")
    (tmp_path / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    assert ImageClassification(tmp_path, facts()).labels == labels

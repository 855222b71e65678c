"""The golden check: only a version that answers what it answered at export may pass."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from service.engine.runtime.session import Device, RunFailed, Session
from service.errors import ModelRejected
from service.repository.golden import (
    Run,
    check_arrays,
    check_cases,
    check_files,
    read_golden_arrays,
    write_golden_arrays,
)
from service.repository.manifest import (
    GOLDEN_ARRAYS_FILE,
    GOLDEN_CASES_FILE,
    VERSION_FILE,
    GoldenCase,
    GoldenCases,
    Variant,
    VersionFacts,
    read,
    write,
)
from service.tasks import TASKS, Limits, Task
from tests.tiny_models import LABELS, make_model, picture

Outputs = Mapping[str, NDArray[Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid version's folder, free to be damaged."""
    return make_model(tmp_path)


def facts_of(folder: Path) -> VersionFacts:
    return read(folder / VERSION_FILE, VersionFacts)


def task_of(folder: Path) -> Task:
    facts = facts_of(folder)
    return TASKS["image-classification"](folder, facts)


def graph_of(folder: Path) -> Run:
    return Session(folder / "model.onnx", Device("cpu")).run


def variant(**tolerance: float) -> Variant:
    return Variant(file="model.onnx", tolerance=tolerance)


def check(folder: Path, run: Run | None = None, tolerance: Variant | None = None) -> dict[str, float]:
    wanted = tolerance or facts_of(folder).variants[0]
    return check_arrays(folder, wanted, task_of(folder), run or graph_of(folder))


def changed(run: Run, name: str, change: Any) -> Run:
    """The same graph, but one output is changed."""

    def run_changed(inputs: Outputs) -> Outputs:
        return {key: change(value) if key == name else value for key, value in run(inputs).items()}

    return run_changed


def test_a_valid_version_passes_every_check(folder: Path) -> None:
    check_files(folder, facts_of(folder))
    assert check(folder) == {"probabilities": pytest.approx(0, abs=1e-5)}
    check_cases(folder, task_of(folder), graph_of(folder), Limits())


# --- files -----------------------------------------------------------------------------------

_ALL_FILES = ["model.onnx", "labels.txt", "golden.npz", "golden/golden.yaml", "golden/noise.png"]


@pytest.mark.parametrize("name", _ALL_FILES)
def test_a_changed_byte_is_found_and_the_file_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelRejected, match=rf"{name} .*hash differs"):
        check_files(folder, facts_of(folder))


@pytest.mark.parametrize("name", _ALL_FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    facts = facts_of(folder)
    (folder / name).unlink()
    with pytest.raises(ModelRejected, match=f"{name} is missing"):
        check_files(folder, facts)


@pytest.mark.parametrize("name", _ALL_FILES)
def test_a_file_without_a_hash_is_named(folder: Path, name: str) -> None:
    facts = facts_of(folder)
    fewer = facts.model_copy(update={"files": {k: v for k, v in facts.files.items() if k != name}})
    with pytest.raises(ModelRejected, match=f"no hash for {name}"):
        check_files(folder, fewer)


def test_weights_beside_the_graph_need_a_hash_too(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"weights")
    with pytest.raises(ModelRejected, match=r"model\.onnx\.data"):
        check_files(folder, facts_of(folder))


def test_what_a_file_system_hides_beside_the_files_does_no_harm(folder: Path) -> None:
    (folder / ".nfs0001").write_bytes(b"")
    check_files(folder, facts_of(folder))


def test_a_folder_in_place_of_a_file_is_a_missing_file(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").mkdir()
    with pytest.raises(ModelRejected, match=r"labels\.txt is missing"):
        check_files(folder, facts_of(folder))


# --- arrays ----------------------------------------------------------------------------------


def _nudge(by: float) -> Any:
    def nudge(values: NDArray[np.float32]) -> NDArray[np.float32]:
        moved = values.copy()
        moved[2, 1] += by
        return moved

    return nudge


def test_a_difference_over_the_tolerance_names_output_difference_and_tolerance(folder: Path) -> None:
    run = changed(graph_of(folder), "probabilities", _nudge(0.003))
    with pytest.raises(ModelRejected, match=r"output probabilities .* by 0\.003; the tolerance is 0\.0001"):
        check(folder, run)


def test_a_difference_within_the_tolerance_passes_and_is_told(folder: Path) -> None:
    run = changed(graph_of(folder), "probabilities", _nudge(0.003))
    assert check(folder, run, variant(probabilities=0.004)) == {
        "probabilities": pytest.approx(0.003, abs=1e-5)
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_refused_whatever_the_tolerance(folder: Path, value: float) -> None:
    run = changed(graph_of(folder), "probabilities", lambda values: np.where(values > 0.9, value, values))
    with pytest.raises(ModelRejected, match="output probabilities"):
        check(folder, run, variant(probabilities=1e30))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_expected_values_that_are_not_finite_are_refused_even_where_the_graph_agrees(
    folder: Path, value: float
) -> None:
    inputs, outputs = read_golden_arrays(folder)
    wrong = {"probabilities": np.full_like(outputs["probabilities"], value)}
    write_golden_arrays(folder, inputs, wrong)
    with pytest.raises(ModelRejected, match="probabilities"):
        check(folder, lambda _: wrong)


@pytest.mark.parametrize(
    "change",
    [lambda v: v[:, :-1], lambda v: v[:-1], lambda v: v[..., None], lambda v: v.T, lambda v: v[:1]],
    ids=["fewer labels", "fewer rows", "another axis", "transposed", "one row"],
)
def test_an_output_of_another_shape_is_refused(folder: Path, change: Any) -> None:
    with pytest.raises(ModelRejected, match=r"output probabilities has shape .*expected \[5, 4\]"):
        check(folder, changed(graph_of(folder), "probabilities", change))


def test_an_output_of_another_name_is_refused(folder: Path) -> None:
    def run(inputs: Outputs) -> Outputs:
        return {"scores": graph_of(folder)(inputs)["probabilities"]}

    with pytest.raises(ModelRejected, match="no output probabilities"):
        check(folder, run)


def test_an_output_without_a_tolerance_is_refused(folder: Path) -> None:
    with pytest.raises(ModelRejected, match=r"model\.onnx states no tolerance for output probabilities"):
        check(folder, tolerance=variant(scores=1.0))


def test_golden_arrays_that_do_not_fit_the_graph_are_refused_by_their_file(folder: Path) -> None:
    _, outputs = read_golden_arrays(folder)
    for inputs in (
        {"image": np.zeros((5, 9, 9, 1), np.uint8)},
        {"picture": np.zeros((5, 8, 8, 1), np.uint8)},
    ):
        write_golden_arrays(folder, inputs, outputs)
        with pytest.raises(ModelRejected, match=r"golden\.npz"):
            check(folder)


def test_golden_arrays_without_an_output_of_the_task_are_refused(folder: Path) -> None:
    inputs, outputs = read_golden_arrays(folder)
    write_golden_arrays(folder, inputs, {"logits": outputs["probabilities"]})
    with pytest.raises(ModelRejected, match="probabilities"):
        check(folder)


def test_golden_arrays_without_rows_prove_nothing_and_are_refused(folder: Path) -> None:
    inputs, outputs = read_golden_arrays(folder)
    write_golden_arrays(folder, {k: v[:0] for k, v in inputs.items()}, {k: v[:0] for k, v in outputs.items()})
    with pytest.raises(ModelRejected, match=r"golden\.npz"):
        check(folder)


@pytest.mark.parametrize("kept", ["inputs", "outputs", "neither"])
def test_golden_arrays_without_inputs_or_outputs_are_refused(folder: Path, kept: str) -> None:
    inputs, outputs = read_golden_arrays(folder)
    write_golden_arrays(folder, inputs if kept == "inputs" else {}, outputs if kept == "outputs" else {})
    with pytest.raises(ModelRejected, match="no inputs or no outputs"):
        read_golden_arrays(folder)


def test_golden_arrays_that_are_not_there_are_refused(folder: Path) -> None:
    (folder / GOLDEN_ARRAYS_FILE).unlink()
    with pytest.raises(ModelRejected, match=r"golden\.npz"):
        read_golden_arrays(folder)


def test_pickled_arrays_are_refused_and_never_unpickled(folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(folder / "sprung"),))

    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    write_golden_arrays(folder, {"image": trap}, {"probabilities": trap})
    with pytest.raises(ModelRejected, match=r"golden\.npz cannot be read"):
        read_golden_arrays(folder)
    assert not (folder / "sprung").exists()


def _plain_array() -> bytes:
    file = BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def _foreign_archive() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inputs.image.npy", b"words")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"words", b"PK\x03\x04", _plain_array(), _foreign_archive()],
    ids=["empty", "text", "zip magic", "one array", "foreign zip"],
)
def test_a_file_that_is_no_npz_is_refused(folder: Path, content: bytes) -> None:
    (folder / GOLDEN_ARRAYS_FILE).write_bytes(content)
    with pytest.raises(ModelRejected, match=r"golden\.npz"):
        read_golden_arrays(folder)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("golden"))


@given(st.data())
@settings(deadline=None, max_examples=150)
@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy's and zipfile's, about the damage
def test_a_damaged_npz_raises_nothing_but_a_rejection(scratch: Path, data: st.DataObject) -> None:
    damaged = scratch / "damaged"
    damaged.mkdir(exist_ok=True)
    content = bytearray((scratch / GOLDEN_ARRAYS_FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
    (damaged / GOLDEN_ARRAYS_FILE).write_bytes(content)
    try:
        read_golden_arrays(damaged)
    except ModelRejected as error:
        assert GOLDEN_ARRAYS_FILE in str(error)


_some_arrays = st.dictionaries(
    st.from_regex(r"[a-z_]{1,9}", fullmatch=True),
    arrays.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32]), arrays.array_shapes(max_dims=4, max_side=4)
    ),
    min_size=1,
    max_size=3,
)


@given(_some_arrays, _some_arrays)
@settings(deadline=None, max_examples=40)
def test_golden_arrays_that_were_written_are_read_back_the_same(
    scratch: Path, inputs: dict[str, NDArray[Any]], outputs: dict[str, NDArray[Any]]
) -> None:
    place = scratch / "written"
    place.mkdir(exist_ok=True)
    write_golden_arrays(place, inputs, outputs)
    for wrote, got in zip((inputs, outputs), read_golden_arrays(place), strict=True):
        assert wrote.keys() == got.keys()
        for name, array in wrote.items():
            assert got[name].dtype == array.dtype
            np.testing.assert_array_equal(got[name], array)


# --- cases -----------------------------------------------------------------------------------


def cases_of(folder: Path) -> None:
    check_cases(folder, task_of(folder), graph_of(folder), Limits())


def test_swapped_labels_are_caught_by_the_golden_files_and_by_nothing_else(folder: Path) -> None:
    (folder / "labels.txt").write_text("\n".join(reversed(LABELS)) + "\n")
    check(folder)
    with pytest.raises(ModelRejected, match=r"golden/noise\.png: label"):
        cases_of(folder)


def test_a_golden_image_that_changed_is_caught(folder: Path) -> None:
    (folder / "golden" / "noise.png").write_bytes(picture(99))
    with pytest.raises(ModelRejected, match=r"golden/noise\.png: label"):
        cases_of(folder)


@pytest.mark.parametrize("content", [b"", b"words", picture(1)[:80]], ids=["empty", "text", "cut off"])
def test_a_golden_image_that_does_not_decode_is_named(folder: Path, content: bytes) -> None:
    (folder / "golden" / "noise.png").write_bytes(content)
    with pytest.raises(ModelRejected, match=r"golden/noise\.png"):
        cases_of(folder)


def test_a_golden_image_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "golden" / "noise.png").unlink()
    with pytest.raises(ModelRejected, match=r"golden/noise\.png"):
        cases_of(folder)


def test_a_golden_image_over_the_limits_of_this_service_is_named(folder: Path) -> None:
    with pytest.raises(ModelRejected, match=r"golden/noise\.png.*limit is 63"):
        check_cases(folder, task_of(folder), graph_of(folder), Limits(max_pixels=63))


def test_a_file_of_cases_that_is_not_there_is_named(folder: Path) -> None:
    (folder / GOLDEN_CASES_FILE).unlink()
    with pytest.raises(ModelRejected, match=r"golden\.yaml"):
        cases_of(folder)


@pytest.mark.parametrize(
    "answer",
    [{}, {"predictons": []}, {"predictions": []}, {"predictions": [{"label": "one", "score": "high"}]}],
)
def test_a_case_that_expects_nothing_is_refused_by_its_file(folder: Path, answer: dict[str, object]) -> None:
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(GoldenCase(file="noise.png", answer=answer),)))
    with pytest.raises(ModelRejected, match=r"golden/noise\.png"):
        cases_of(folder)


def test_a_graph_that_cannot_take_a_golden_image_is_refused_by_its_file(folder: Path) -> None:
    facts = facts_of(folder)
    wider = facts.model_copy(update={"input": facts.input.model_copy(update={"width": 9})})
    task = TASKS["image-classification"](folder, wider)
    with pytest.raises(ModelRejected, match=r"golden/noise\.png"):
        check_cases(folder, task, graph_of(folder), Limits())


def test_a_case_keeps_to_its_own_tolerance(folder: Path) -> None:
    [case] = read(folder / GOLDEN_CASES_FILE, GoldenCases).cases
    run = changed(graph_of(folder), "probabilities", lambda values: values + np.float32(0.03))
    for tolerance, agrees in ((0.04, True), (0.02, False)):
        loose = case.model_copy(update={"tolerance": tolerance})
        write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(loose,)))
        if agrees:
            check_cases(folder, task_of(folder), run, Limits())
        else:
            with pytest.raises(ModelRejected, match=r"golden/noise\.png.*± 0\.02"):
                check_cases(folder, task_of(folder), run, Limits())


def test_every_case_is_checked_and_not_only_the_first(folder: Path) -> None:
    [case] = read(folder / GOLDEN_CASES_FILE, GoldenCases).cases
    Image.new("L", (8, 8)).save(folder / "golden" / "black.png")
    second = case.model_copy(update={"file": "black.png"})
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(case, second)))
    with pytest.raises(ModelRejected, match=r"golden/black\.png"):
        cases_of(folder)


def test_a_run_that_fails_is_a_rejection_that_keeps_its_cause(folder: Path) -> None:
    def run(_: Outputs) -> Outputs:
        raise RunFailed("out of memory")

    with pytest.raises(ModelRejected, match="out of memory"):
        check(folder, run)


def test_a_variant_may_state_a_larger_tolerance_and_never_a_smaller_one(folder: Path) -> None:
    run = changed(graph_of(folder), "probabilities", lambda values: values + np.float32(0.03))
    check_cases(folder, task_of(folder), run, Limits(), answer_tolerance=0.04)
    with pytest.raises(ModelRejected, match=r"golden/noise\.png.*± 0\.02"):
        check_cases(folder, task_of(folder), run, Limits(), answer_tolerance=0.02)
    check_cases(folder, task_of(folder), graph_of(folder), Limits(), answer_tolerance=1e-9)

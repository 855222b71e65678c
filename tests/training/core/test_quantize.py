"""`kotae-train quantize`: a measured smaller variant in a version of its own, or nothing at all."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.engine.runtime.session import Device
from service.repository.catalog import Catalog
from service.repository.loader import LoadOptions
from service.repository.manifest import VERSION_FILE, VersionFacts, read, sha256_of, write
from service.repository.overrides import ModelOverrides, Overrides
from tests.training.conftest import Trained, silent_console, tiny_recipe
from training import __main__ as command_line
from training.core import quantize, session, variant
from training.core.comparison import VariantComparison, lost_points
from training.core.quantize import QuantizationData, QuantizationRequest, quantize_model
from training.core.session import open_first_variant
from training.core.variant import FP16_FILE, INT8_FILE, Precision
from training.core.version_folder import Destination
from training.errors import DataRejected, ExportFailed


@pytest.fixture(scope="module")
def subject(trained: Trained) -> QuantizationData:
    return trained.steps.quantization_data()


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy of the model of shapes with its one version."""
    return shutil.copytree(exported.parent, tmp_path / "shapes")


def order(model: Path, most_loss: float = 20.0, precision: Precision = "int8") -> QuantizationRequest:
    return QuantizationRequest(
        model, Destination(model.parent), most_loss, "kotae-train quantize shapes", precision
    )


def variants(version: Path) -> dict[str, str]:
    return {v.precision: v.file for v in read(version / VERSION_FILE, VersionFacts).variants}


def test_items_to_find_scales_on_are_not_those_to_be_judged_by(
    trained: Trained, subject: QuantizationData
) -> None:
    assert subject.items
    assert not {*subject.items} & {*trained.pictures.files}


def test_the_new_version_holds_both_variants_with_their_own_figures(
    model: Path, subject: QuantizationData, exported: Path
) -> None:
    version = quantize_model(order(model), subject, silent_console())
    assert version == model / "2"
    facts, old = (read(folder / VERSION_FILE, VersionFacts) for folder in (version, exported))
    assert variants(version) == {"int8": INT8_FILE, "fp32": "model.onnx"}
    by_precision = {variant.precision: variant for variant in facts.variants}
    assert by_precision["fp32"].metrics == old.variants[0].metrics
    assert by_precision["int8"].metrics.keys() == old.variants[0].metrics.keys()
    assert by_precision["int8"].devices == ("cpu",)
    assert facts.metrics.keys() == old.metrics.keys()
    assert facts.metrics["accuracy"] == facts.variants[0].metrics["accuracy"]
    assert facts.provenance.command.splitlines() == [old.provenance.command, "kotae-train quantize shapes"]
    assert all(sha256_of(version / name) == value for name, value in facts.files.items())
    assert facts.files.keys() == {*old.files, INT8_FILE}
    card = (model / "README.md").read_text()
    assert "## Version 2: int8" in card
    assert f"| accuracy | {by_precision['fp32'].metrics['accuracy']:.4f} |" in card


@pytest.mark.parametrize("precision", ["auto", "int8", "fp32"])
def test_the_service_serves_the_variant_that_its_host_wants(
    model: Path, subject: QuantizationData, precision: str
) -> None:
    version = quantize_model(order(model), subject, silent_console())
    lanes = Lanes(Observer())
    overrides = Overrides().with_model("shapes", ModelOverrides.model_validate({"precision": precision}))
    catalog = Catalog(model.parent, lanes, Observer(), LoadOptions(overrides=overrides))
    catalog.discover()
    catalog.load()
    lanes.stop()
    serving = catalog.models["shapes"].serving
    assert serving is not None, catalog.models["shapes"].problem
    assert serving.number == 2
    assert serving.variant is not None
    first = read(version / VERSION_FILE, VersionFacts).variants[0].precision
    assert serving.variant.precision == (first if precision == "auto" else precision)


def test_the_faster_variant_stands_first(
    model: Path, subject: QuantizationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for speed, first in ((1.5, "int8"), (1.0, "fp32")):
        monkeypatch.setattr(quantize, "measure_speeds", lambda *_, speed=speed: {1: 2.0, 8: speed})
        version = quantize_model(order(model), subject, silent_console())
        assert next(iter(variants(version))) == first


def test_a_version_with_an_int8_variant_can_be_quantised_again(
    model: Path, subject: QuantizationData
) -> None:
    first = quantize_model(order(model), subject, silent_console())
    second = quantize_model(order(model), subject, silent_console())
    assert second == model / "3"
    assert variants(second) == variants(first)
    assert (
        read(second / VERSION_FILE, VersionFacts).files.keys()
        == read(first / VERSION_FILE, VersionFacts).files.keys()
    )


# --- fp16 -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halved(exported: Path, subject: QuantizationData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose second version has an fp16 variant; not to be changed."""
    model = shutil.copytree(exported.parent, tmp_path_factory.mktemp("halved") / "shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variant, "cuda_problem", lambda: "there is no GPU")
        quantize_model(order(model, precision="fp16"), subject, silent_console())
    return model


def test_an_fp16_variant_is_for_gpus_and_says_where_it_was_measured_and_what_stays_fp32(
    halved: Path, subject: QuantizationData
) -> None:
    version = halved / "2"
    facts = read(version / VERSION_FILE, VersionFacts)
    plain, half = facts.variants
    assert (plain.precision, half.precision, half.file) == ("fp32", "fp16", FP16_FILE)
    assert half.devices == ("cuda",)
    assert half.measured_on == plain.measured_on == "cpu"
    assert half.metrics.keys() == plain.metrics.keys()
    assert half.metrics["accuracy"] == pytest.approx(plain.metrics["accuracy"], abs=0.05)
    assert half.tolerance["probabilities"] >= plain.tolerance["probabilities"]
    assert half.fp32_operators is not None
    assert half.fp32_operators["Softmax"] == 1
    assert facts.metrics["accuracy"] == plain.metrics["accuracy"]  # of the first variant
    assert (version / FP16_FILE).stat().st_size < 0.6 * (version / plain.file).stat().st_size
    card = (halved / "README.md").read_text()
    assert "## Version 2: fp16" in card
    assert "on a CPU,\nwhich has no fp16" in card
    assert "Softmax (1)" in card


@pytest.mark.parametrize(("precision", "served"), [("auto", 2), ("fp16", 1)])
def test_a_cpu_never_serves_fp16(halved: Path, precision: str, served: int) -> None:
    lanes = Lanes(Observer())
    overrides = Overrides().with_model("shapes", ModelOverrides.model_validate({"precision": precision}))
    options = LoadOptions(device="cpu", overrides=overrides)
    catalog = Catalog(halved.parent, lanes, Observer(), options)
    catalog.discover()
    catalog.load()
    lanes.stop()
    version = catalog.models["shapes"].serving
    if precision == "auto":
        assert version is not None
        assert version.number == served
        assert version.variant is not None
        assert version.variant.precision == "fp32"
    else:
        assert version is None
        assert "no fp16 variant is for cpu" in str(catalog.models["shapes"].problem)


def test_a_version_can_have_int8_and_fp16_and_get_either_anew(model: Path, subject: QuantizationData) -> None:
    orders: list[Precision] = ["int8", "fp16", "fp16", "int8"]
    made = [quantize_model(order(model, precision=wanted), subject, silent_console()) for wanted in orders]
    assert variants(made[0]).keys() == {"fp32", "int8"}
    for version in made[1:]:
        assert variants(version) == {"int8": INT8_FILE, "fp32": "model.onnx", "fp16": FP16_FILE}
        assert len(read(version / VERSION_FILE, VersionFacts).variants) == 3
        facts = read(version / VERSION_FILE, VersionFacts)
        assert all(sha256_of(version / name) == value for name, value in facts.files.items())


@pytest.mark.gpu
def test_with_a_gpu_fp16_is_measured_and_timed_on_it(model: Path, subject: QuantizationData) -> None:
    version = quantize_model(order(model, precision="fp16"), subject, silent_console())
    facts = read(version / VERSION_FILE, VersionFacts)
    assert {variant.measured_on for variant in facts.variants} == {"cuda"}
    assert "speed, batches of 8" in (model / "README.md").read_text()


@pytest.mark.parametrize(
    ("measured_on", "problem", "kind"),
    [(None, None, "cpu"), ("cpu", None, "cpu"), ("cuda", None, "cuda"), ("cuda", "no GPU", "cpu")],
)
def test_figures_are_measured_where_they_were_measured_before_if_that_is_there(
    halved: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured_on: str | None,
    problem: str | None,
    kind: str,
) -> None:
    facts = read(halved / "2" / VERSION_FILE, VersionFacts)
    half = facts.variants[1].model_copy(update={"measured_on": measured_on})
    monkeypatch.setattr(session, "cuda_problem", lambda: problem)
    opened: list[tuple[Path, Device]] = []
    monkeypatch.setattr(session, "open_session", lambda path, device, **_: opened.append((path, device)))
    open_first_variant(halved / "2", facts.model_copy(update={"variants": (half,)}))
    assert opened == [(halved / "2" / FP16_FILE, Device(kind))]


# --- refusals ---------------------------------------------------------------------------------


def files_of(model: Path) -> set[str]:
    return {path.relative_to(model).as_posix() for path in model.rglob("*")}


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize(("accuracy", "allowed"), [(0.9, 5.0), (0.89, 10.9), (float("nan"), 100.0)])
def test_what_loses_more_than_is_allowed_is_refused_and_leaves_nothing(
    model: Path, subject: QuantizationData, accuracy: float, allowed: float, precision: Precision
) -> None:
    def measure(_: Path, facts: VersionFacts) -> Mapping[str, float]:
        return {"accuracy": 1.0 if facts.variants[0].precision == "fp32" else accuracy}

    judged = dataclasses.replace(subject, measure=measure, guarded={"accuracy": True})
    before = files_of(model)
    with pytest.raises(ExportFailed, match=rf"{precision} loses .* of accuracy .* allows {allowed:g}"):
        quantize_model(order(model, allowed, precision), judged, silent_console())
    assert files_of(model) == before


def test_a_graph_that_answers_otherwise_is_refused_and_leaves_nothing(
    model: Path, subject: QuantizationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantize_wrongly(source: Path, target: Path, batches: object) -> None:
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(source)
        for weight in graph.graph.initializer:
            values = numpy_helper.to_array(weight)
            if values.ndim == 4:
                weight.CopyFrom(numpy_helper.from_array(-values, weight.name))
        onnx.save(graph, target)

    monkeypatch.setattr(variant, "quantize_graph", quantize_wrongly)
    before = files_of(model)
    with pytest.raises(ExportFailed, match="golden/"):
        quantize_model(order(model), subject, silent_console())
    assert files_of(model) == before


def test_a_model_without_a_version_or_without_fp32_cannot_be_quantised(
    model: Path, subject: QuantizationData, tmp_path: Path
) -> None:
    facts = read(model / "1" / VERSION_FILE, VersionFacts)
    half = facts.variants[0].model_copy(update={"precision": "fp16"})
    write(model / "1" / VERSION_FILE, facts.model_copy(update={"variants": (half,)}))
    with pytest.raises(DataRejected, match="no fp32 variant"):
        quantize_model(order(model), subject, silent_console())
    with pytest.raises(DataRejected, match="no version"):
        quantize_model(order(tmp_path / "nothing"), subject, silent_console())


def test_points_are_lost_where_less_is_better_too() -> None:
    before = {"accuracy": 0.9, "word_error_rate": 0.05}
    after = {"accuracy": 0.88, "word_error_rate": 0.08}
    points = lost_points(before, after, {"accuracy": True, "word_error_rate": False})
    assert points == pytest.approx({"accuracy": 2.0, "word_error_rate": 3.0})


def test_a_variant_must_be_faster_at_every_size_of_batch() -> None:
    assert VariantComparison("int8", "cpu", {}, {}, {1: 1.2, 8: 1.5}).worth_it
    assert not VariantComparison("int8", "cpu", {}, {}, {1: 1.0, 8: 1.5}).worth_it
    assert not VariantComparison("fp16", "cpu", {}, {}, {}).worth_it  # not timed


# --- the command -----------------------------------------------------------------------------


def test_the_command_makes_a_version_or_ends_with_1(
    model: Path,
    picture_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "shapes.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(picture_folder).model_dump(mode="json")), encoding="utf-8")

    def run(*more: str) -> int:
        arguments = ["quantize", str(model), "--recipe", str(recipe), *more]
        monkeypatch.setattr(sys, "argv", ["kotae-train", *arguments])
        with pytest.raises(SystemExit) as stopped:
            command_line.main()
        return int(stopped.value.code or 0)

    assert run("--most-loss", "20") == 0
    assert variants(model / "2").keys() == {"fp32", "int8"}
    assert run("--most-loss", "20", "--version", "2") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run("--most-loss", "20", "--precision", "fp16") == 0
    assert variants(model / "3").keys() == {"fp32", "int8", "fp16"}
    assert run("--precision", "fp8") == 2
    assert "Invalid value for '--precision'" in capsys.readouterr().err

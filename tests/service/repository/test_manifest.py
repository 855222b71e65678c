"""The contract files: round trips, and that no mistake in one goes unnoticed."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from service.errors import ModelRejected
from service.repository.manifest import (
    MANIFEST_FILE,
    VERSION_FILE,
    Baseline,
    Batching,
    GoldenCase,
    GoldenCases,
    ImageInput,
    ModelManifest,
    Provenance,
    Variant,
    VersionFacts,
    VersionPolicy,
    read,
    sha256_of,
    version_folders,
    write,
)

MANIFEST = """
name: digits
task: image-classification
description: Handwritten digits, one to a picture.
license: Apache-2.0
default: true
required: true
versions: {policy: latest, count: 1}
batching: {max_items: 64, max_cost: 64, max_delay_seconds: 0}
deadline_seconds: 1.0
devices: [auto]
"""

FACTS = f"""
created: 2026-11-21T10:00:00Z
provenance:
  {{command: "kotae-train build digits", commit: 4f1c, data: "drawn", seed: 0,
   library_versions: {{torch: 2.13.0}}}}
input:
  {{kind: image, width: 32, height: 32, channels: 1, resize: stretch, filter: bilinear,
   antialias: true, pad_value: 0}}
labels: labels.txt
variants:
  - file: model.onnx
    precision: fp32
    devices: [cpu, cuda]
    tolerance: {{probabilities: 1.0e-4}}
    metrics: {{accuracy: 0.996}}
metrics: {{accuracy: 0.996, macro_f1: 0.996, split: "by writer", held_out_items: 360}}
baseline: {{class_mix: {{"0": 0.1}}, confidence: {{p05: 0.9}}}}
files: {{model.onnx: "sha256:{"0" * 64}", golden.npz: "sha256:{"a" * 64}"}}
"""

DIGEST = "sha256:" + "0" * 64

# YAML folds the exotic line ends (NEL, LS, PS); words of people have none.
_texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=20)
_some_examples = settings(max_examples=40, deadline=None)
_fractions = st.floats(0, 1)
_metrics = st.dictionaries(_texts, _fractions, max_size=3)
_paths = st.from_regex(r"[a-z][a-z0-9_]{0,8}(/[a-z0-9]{1,5}){0,2}\.(onnx|txt)", fullmatch=True)

manifests = st.builds(
    ModelManifest,
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
    task=st.just("image-classification"),
    description=_texts,
    license=_texts,
    default=st.booleans(),
    required=st.booleans(),
    versions=st.builds(
        VersionPolicy,
        policy=st.sampled_from(["latest", "all", "listed"]),
        count=st.integers(1, 9),
        list=st.lists(st.integers(1, 99), max_size=3).map(tuple),
    ),
    batching=st.builds(
        Batching,
        max_items=st.integers(1, 4096),
        max_cost=st.none() | st.integers(1, 10**9),
        max_delay_seconds=st.floats(0, 10),
        max_queue_items=st.integers(1, 10**6),
    ),
    deadline_seconds=st.floats(0.001, 86400),
    devices=st.lists(st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]), min_size=1, max_size=3).map(tuple),
)

version_facts = st.builds(
    VersionFacts,
    created=st.datetimes(timezones=st.just(UTC)),
    provenance=st.builds(Provenance, command=_texts, commit=_texts, data=_texts, seed=st.integers(0, 2**32)),
    input=st.builds(
        ImageInput,
        width=st.integers(1, 8192),
        height=st.integers(1, 8192),
        channels=st.sampled_from([1, 3]),
        resize=st.sampled_from(["stretch", "crop", "letterbox"]),
        filter=st.sampled_from(["nearest", "bilinear", "bicubic"]),
        antialias=st.booleans(),
        pad_value=st.integers(0, 255),
    ),
    labels=_paths,
    variants=st.lists(
        st.builds(Variant, file=_paths, tolerance=st.just({"probabilities": 1e-4}), metrics=_metrics),
        min_size=1,
        max_size=3,
    ).map(tuple),
    metrics=st.dictionaries(_texts, _fractions | st.text("abcxyz ", min_size=1, max_size=9), max_size=3),
    baseline=st.builds(Baseline, class_mix=_metrics, confidence=_metrics),
    files=st.dictionaries(_paths, st.just(DIGEST), min_size=1, max_size=4),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifest")


@_some_examples
@given(manifests)
def test_a_manifest_that_was_written_is_read_back_the_same(scratch: Path, manifest: ModelManifest) -> None:
    write(scratch / MANIFEST_FILE, manifest)
    assert read(scratch / MANIFEST_FILE, ModelManifest) == manifest


@_some_examples
@given(version_facts)
def test_version_facts_that_were_written_are_read_back_the_same(scratch: Path, facts: VersionFacts) -> None:
    write(scratch / VERSION_FILE, facts)
    assert read(scratch / VERSION_FILE, VersionFacts) == facts


def test_golden_cases_that_were_written_are_read_back_the_same(tmp_path: Path) -> None:
    answer: dict[str, object] = {"predictions": [{"label": "7", "score": 0.998}]}
    cases = GoldenCases(cases=(GoldenCase(file="seven.png", answer=answer, tolerance=0.02),))
    write(tmp_path / "golden.yaml", cases)
    assert read(tmp_path / "golden.yaml", GoldenCases) == cases


def test_the_documented_example_is_a_manifest(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text(MANIFEST)
    manifest = read(tmp_path / MANIFEST_FILE, ModelManifest)
    assert manifest.name == "digits"
    assert manifest.versions == VersionPolicy(policy="latest", count=1)
    assert manifest.batching == Batching(max_items=64, max_cost=64, max_delay_seconds=0)


def test_the_documented_example_is_a_version(tmp_path: Path) -> None:
    (tmp_path / VERSION_FILE).write_text(FACTS)
    facts = read(tmp_path / VERSION_FILE, VersionFacts)
    assert facts.created == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert facts.input == ImageInput(width=32, height=32, channels=1)
    assert facts.variants[0].tolerance == {"probabilities": 1e-4}
    assert facts.metrics["split"] == "by writer"


def _changed(text: str, path: tuple[str | int, ...], value: object) -> str:
    content = yaml.safe_load(text)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return str(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("defualt",), True, "defualt"),
        (("batching", "max_itmes"), 3, "batching.max_itmes"),
        (("versions", "cuont"), 3, "versions.cuont"),
        (("name",), "Digits", "name"),
        (("name",), "../digits", "name"),
        (("name",), "x" * 65, "name"),
        (("task",), "image-clasification", "task"),
        (("batching", "max_items"), 0, "batching.max_items"),
        (("batching", "max_delay_seconds"), -1, "batching.max_delay_seconds"),
        (("deadline_seconds",), 0, "deadline_seconds"),
        (("devices",), [], "devices"),
        (("devices",), ["gpu"], "devices.0"),
        (("versions", "policy"), "newest", "versions.policy"),
        (("versions", "list"), [0], "versions.list.0"),
    ],
)
def test_a_mistake_in_a_manifest_is_refused_by_its_key(
    tmp_path: Path, path: tuple[str | int, ...], value: object, named: str
) -> None:
    (tmp_path / MANIFEST_FILE).write_text(_changed(MANIFEST, path, value))
    with pytest.raises(ModelRejected) as caught:
        read(tmp_path / MANIFEST_FILE, ModelManifest)
    assert str(caught.value).startswith(f"{MANIFEST_FILE}: {named}: ")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("input", "widht"), 3, "input.image.widht"),
        (("input", "width"), 0, "input.image.width"),
        (("input", "channels"), 4, "input.image.channels"),
        (("input", "pad_value"), 256, "input.image.pad_value"),
        (("input", "kind"), "video", "input"),
        (("variants",), [], "variants"),
        (("variants", 0, "tolerence"), {}, "variants.0.tolerence"),
        (("variants", 0, "tolerance"), {"probabilities": 0}, "variants.0.tolerance.probabilities"),
        (("variants", 0, "devices"), ["tpu"], "variants.0.devices.0"),
        (("files",), {}, "files"),
        (("files",), {"model.onnx": "md5:00"}, "files.model.onnx"),
        (("created",), "yesterday", "created"),
    ],
)
def test_a_mistake_in_version_facts_is_refused_by_its_key(
    tmp_path: Path, path: tuple[str | int, ...], value: object, named: str
) -> None:
    (tmp_path / VERSION_FILE).write_text(_changed(FACTS, path, value))
    with pytest.raises(ModelRejected) as caught:
        read(tmp_path / VERSION_FILE, VersionFacts)
    assert re.match(rf"{VERSION_FILE}: {named}: ", str(caught.value))


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text("task: x\ndefualt: true\n")
    with pytest.raises(ModelRejected, match=r"name: .*; task: .*; defualt: "):
        read(tmp_path / MANIFEST_FILE, ModelManifest)


def test_a_mistake_in_a_golden_case_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "golden.yaml").write_text("cases: [{file: x.png, anwser: {}}]")
    with pytest.raises(ModelRejected, match=r"cases\.0\.anwser"):
        read(tmp_path / "golden.yaml", GoldenCases)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "..", "", ".", "a\\..\\x", "a\\b"])
@pytest.mark.parametrize("place", ["labels", "variants", "files", "case"])
def test_paths_outside_of_the_folder_are_refused(path: str, place: str) -> None:
    content = yaml.safe_load(FACTS)
    documents: dict[str, tuple[type[BaseModel], object]] = {
        "labels": (VersionFacts, content | {"labels": path}),
        "variants": (VersionFacts, content | {"variants": [content["variants"][0] | {"file": path}]}),
        "files": (VersionFacts, content | {"files": {path: DIGEST}}),
        "case": (GoldenCases, {"cases": [{"file": path, "answer": {}}]}),
    }
    document, broken = documents[place]
    with pytest.raises(ValidationError, match="inside the version folder"):
        document.model_validate(broken)


@pytest.mark.parametrize("content", ["", "[]", "words", "{{{", "a: [", "a: !!python/name:os.system"])
def test_a_file_that_is_no_document_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(content)
    with pytest.raises(ModelRejected, match=rf"^{MANIFEST_FILE}") as caught:
        read(tmp_path / MANIFEST_FILE, ModelManifest)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelRejected, match=MANIFEST_FILE):
        read(tmp_path / MANIFEST_FILE, ModelManifest)


def test_a_file_that_is_not_there_is_called_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=f"{MANIFEST_FILE} is missing"):
        read(tmp_path / MANIFEST_FILE, ModelManifest)


def test_documents_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ImageInput(width=1, height=1).width = 2  # type: ignore[misc]


@_some_examples
@given(st.binary(max_size=3000))
def test_a_hash_is_the_sha256_of_the_bytes(scratch: Path, content: bytes) -> None:
    (scratch / "bytes").write_bytes(content)
    assert sha256_of(scratch / "bytes") == "sha256:" + hashlib.sha256(content).hexdigest()


def test_versions_are_listed_newest_first_by_number(tmp_path: Path) -> None:
    for name in ("1", "2", "10", "9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / VERSION_FILE).touch()
    assert version_folders(tmp_path) == [(n, tmp_path / str(n)) for n in (10, 9, 2, 1)]


@pytest.mark.parametrize("name", ["0", "01", "x", "1x", "-1", "1.0", "²", "٣", ".1", "v1", " 1"])
def test_a_folder_whose_name_is_no_number_is_no_version(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / VERSION_FILE).touch()
    assert version_folders(tmp_path) == []


def test_a_folder_without_version_facts_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").touch()
    (tmp_path / "2").touch()
    (tmp_path / "3" / VERSION_FILE).mkdir(parents=True)
    assert version_folders(tmp_path) == []


def test_fit_is_read_as_stretch_with_one_warning_per_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1", "2"):
        path = tmp_path / version / VERSION_FILE
        path.parent.mkdir()
        path.write_text(FACTS.replace("resize: stretch", "resize: fit"), encoding="utf-8")
        for _ in range(3):
            facts = read(path, VersionFacts)
            assert isinstance(facts.input, ImageInput) and facts.input.resize == "stretch"
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    for version, warning in zip("12", warnings, strict=True):
        assert str(tmp_path / version / VERSION_FILE) in warning
        assert "write resize: stretch" in warning


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
def test_other_values_of_resize_are_read_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, resize: str
) -> None:
    path = tmp_path / VERSION_FILE
    path.write_text(FACTS.replace("resize: stretch", f"resize: {resize}"), encoding="utf-8")
    facts = read(path, VersionFacts)
    assert isinstance(facts.input, ImageInput) and facts.input.resize == resize
    assert not caplog.records


def test_fit_is_not_a_value_of_the_class() -> None:
    with pytest.raises(ValidationError):
        ImageInput.model_validate({"width": 8, "height": 8, "resize": "fit"})

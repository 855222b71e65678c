"""`model.yaml`, `version.yaml` and `golden.yaml` as typed classes: the contract of training and serving.

Training writes these files and the service reads them, both with the classes here. An unknown key is an
error, so a typing mistake is never ignored silently. This module also hashes files and lists version
folders. It loads no graph.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from service.errors import ModelRejected

MANIFEST_FILE = "model.yaml"
VERSION_FILE = "version.yaml"
GOLDEN_ARRAYS_FILE = "golden.npz"
GOLDEN_CASES_FILE = "golden/golden.yaml"

_log = logging.getLogger(__name__)

TaskName = Literal[
    "image-classification",
    "object-detection",
    "speech-recognition",
    "audio-classification",
    "text-classification",
    "text-embedding",
]


def _inside_the_folder(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError("must be a path inside the version folder")
    return path


RelativePath = Annotated[str, AfterValidator(_inside_the_folder)]
DeviceName = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionPolicy(_Strict):
    """Which versions of a model are loaded.

    `latest` loads the newest `count` versions that pass their checks, `all` every version, `listed` those in
    `list`.
    """

    policy: Literal["latest", "all", "listed"] = "latest"
    count: Annotated[int, Field(ge=1)] = 1
    list: tuple[Annotated[int, Field(ge=1)], ...] = ()


class Batching(_Strict):
    """How the items of one model are batched.

    Attributes:
        max_items: Largest number of items in a batch.
        max_cost: Largest padded cost of a batch: items × the largest item's cost. None is no limit.
        max_delay_seconds: How long a free lane waits for more items, counted from the first one.
        max_queue_items: Largest number of waiting items; more are refused with 429.
    """

    max_items: Annotated[int, Field(ge=1, le=4096)] = 32
    max_cost: Annotated[int, Field(ge=1)] | None = None
    max_delay_seconds: Annotated[float, Field(ge=0, le=10)] = 0.0
    max_queue_items: Annotated[int, Field(ge=1)] = 512


class ModelManifest(_Strict):
    """`model.yaml`: the settings of a model, written by its owner.

    Attributes:
        default: Whether the model answers requests of its task that name no model.
        required: Whether the service is ready only when this model is.
        deadline_seconds: Default deadline of a request, counted from the arrival of its body.
        deadline_per_second: Added to the deadline for every second of audio, as stated in the file's header.
        answer_cache_bytes: Memory for answers to repeated items, found by content; 0 turns the cache off.
        memory_limit_bytes: Most GPU memory of one instance for weights and batches, without CUDA's own; None
            is no limit. It has no effect on the CPU, where `batching` limits memory.
        devices: Devices that run the model, one instance each.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    task: TaskName
    description: str = ""
    license: str = ""
    default: bool = False
    required: bool = True
    versions: VersionPolicy = VersionPolicy()
    batching: Batching = Batching()
    deadline_seconds: Annotated[float, Field(gt=0, le=86400)] = 1.0
    deadline_per_second: Annotated[float, Field(ge=0, le=100)] = 0.5
    answer_cache_bytes: Annotated[int, Field(ge=0, le=2**40)] = 0
    memory_limit_bytes: Annotated[int, Field(ge=2**20, le=2**50)] | None = None
    devices: Annotated[tuple[DeviceName, ...], Field(min_length=1)] = ("auto",)


class ImageInput(_Strict):
    """How an image becomes the graph's `image` tensor, u8 [N, height, width, channels].

    Attributes:
        channels: 1 for grey, 3 for RGB.
        resize: `stretch` scales to the exact size and changes the aspect ratio; `crop` scales the shorter
            side and crops the centre; `letterbox` scales the longer side and pads with `pad_value`.
        filter: Interpolation of the resize.
        antialias: Whether shrinking averages over all source pixels that an output pixel covers.
        pad_value: Grey level of letterbox padding.
    """

    kind: Literal["image"] = "image"
    width: Annotated[int, Field(ge=1, le=8192)]
    height: Annotated[int, Field(ge=1, le=8192)]
    channels: Literal[1, 3] = 3
    resize: Literal["stretch", "crop", "letterbox"] = "stretch"
    filter: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    pad_value: Annotated[int, Field(ge=0, le=255)] = 0


class TextInput(_Strict):
    """How a text becomes the graph's `input_ids` and `attention_mask`, i64 [N, T].

    Attributes:
        tokenizer: A `tokenizers` JSON file; its post-processor adds the special tokens. Token 0 is padding,
            and the graph ignores tokens where `attention_mask` is 0.
        max_tokens: Most tokens of one text, including special tokens.
    """

    kind: Literal["text"] = "text"
    tokenizer: RelativePath = "tokenizer.json"
    max_tokens: Annotated[int, Field(ge=2, le=65536)]


class AudioInput(_Strict):
    """How audio becomes the graph's `audio` f32 [N, T], -1 to 1, and `lengths` i64 [N] in samples.

    Channels are averaged to one and resampled. Samples beyond an item's length are padding, which the graph
    ignores.

    Attributes:
        sample_rate: Samples per second of the graph's input.
        min_seconds: Shorter segments are padded with silence.
        max_seconds: Longest segment. Longer speech is segmented at pauses.
    """

    kind: Literal["audio"] = "audio"
    sample_rate: Annotated[int, Field(ge=4000, le=192_000)] = 16_000
    min_seconds: Annotated[float, Field(gt=0, le=10)] = 0.1
    max_seconds: Annotated[float, Field(gt=0, le=600)]


class Transcription(_Strict):
    """How a speech graph's `log_probs` f32 [N, F, V] and `frames` i64 [N] become words.

    The graph was trained with connectionist temporal classification (CTC): token 0 is the blank. Versions
    with a word list are decoded with beam search, with a language model if there is one.

    Attributes:
        tokens: The V tokens, one per line, the blank first; `|` is the separator between words.
        frame_seconds: Duration of one frame.
        language: ISO 639 code of the spoken language.
        words: The words that an answer may have, one per line; None decodes the best path, letter by letter.
        language_model: An n-gram model of the words, in ARPA format; None is no model.
        beam_size: Number of hypotheses.
        beam_threshold: Hypotheses whose log score is further than this below the best one are dropped.
        language_model_weight: Weight of the language model's log10 probability.
        word_score: Added for every word.
    """

    tokens: RelativePath = "tokens.txt"
    frame_seconds: Annotated[float, Field(gt=0, le=1)]
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = "en"
    words: RelativePath | None = None
    language_model: RelativePath | None = None
    beam_size: Annotated[int, Field(ge=1, le=4096)] = 32
    beam_threshold: Annotated[float, Field(gt=0)] = 20.0
    language_model_weight: float = 0.0
    word_score: float = 0.0


class Variant(_Strict):
    """One precision of the graph.

    Attributes:
        file: The ONNX file in the version folder.
        devices: Kinds of device that this variant is for.
        tolerance: Largest allowed absolute difference from PyTorch, by output name.
        answer_tolerance: Largest allowed difference of a score in a golden answer; None uses the tolerance of
            each case.
        metrics: Metrics on the test part, measured with this file.
        measured_on: The kind of device of the measurement; None is the CPU.
        fp32_operators: In an fp16 graph, the number of nodes that stay fp32, by operator.
    """

    file: RelativePath
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")
    tolerance: dict[str, Annotated[float, Field(gt=0)]]
    answer_tolerance: Annotated[float, Field(gt=0)] | None = None
    metrics: dict[str, float] = {}
    measured_on: Literal["cpu", "cuda"] | None = None
    fp32_operators: dict[str, int] | None = None


class Provenance(_Strict):
    """How a version was made: enough to repeat it."""

    command: str
    commit: str = "unknown"
    data: str
    seed: int
    library_versions: dict[str, str] = {}


class Baseline(_Strict):
    """The distribution of answers on the test part, to compare with in monitoring.

    Attributes:
        class_mix: Fraction of each label among the top predictions.
        confidence: Quantiles of the top score, by name (`p05`, `p50`, …).
    """

    class_mix: dict[str, float] = {}
    confidence: dict[str, float] = {}


class VersionFacts(_Strict):
    """`version.yaml`: the description of one version, written by export.

    Export writes it last: a folder without it is not a version.

    Attributes:
        labels: Names of the classes, one per line; None for tasks without classes.
        transcription: How speech becomes words; only for speech recognition.
        unknown_below: If the best label's probability is lower than this, the answer is `unknown`.
        metrics: Metrics on the test part; numbers, or short texts such as the split's name.
        files: SHA-256 of every other file of the version, as `sha256:<hex>`, by relative path.
    """

    created: datetime
    provenance: Provenance
    input: Annotated[ImageInput | TextInput | AudioInput, Field(discriminator="kind")]
    labels: RelativePath | None = None
    transcription: Transcription | None = None
    unknown_below: Annotated[float, Field(gt=0, lt=1)] | None = None
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    metrics: dict[str, float | str] = {}
    baseline: Baseline = Baseline()
    files: Annotated[
        dict[RelativePath, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]], Field(min_length=1)
    ]


class GoldenCase(_Strict):
    """One raw file and its expected answer.

    Attributes:
        file: Path of the raw file, relative to `golden/`.
        answer: The result object, as in a response's `results`.
        tolerance: Largest allowed difference of a score.
    """

    file: RelativePath
    answer: dict[str, object]
    tolerance: Annotated[float, Field(gt=0)] = 0.01


class GoldenCases(_Strict):
    """`golden/golden.yaml`."""

    cases: Annotated[tuple[GoldenCase, ...], Field(min_length=1)]


_Document = TypeVar("_Document", bound=BaseModel)


def read(path: Path, document: type[_Document]) -> _Document:
    """Return a YAML file as an object of its class.

    Raises:
        ModelRejected: The file is missing, is not YAML or does not match the class; the text names each key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelRejected(f"{path.name} is missing") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelRejected(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    _replace_fit(content, path)
    try:
        return document.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'the document'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ModelRejected(f"{path.name}: {problems}") from error


def _replace_fit(content: object, path: Path) -> None:
    """Replace `resize: fit`, the former name of `stretch`, in a document with an image input."""
    spec = content.get("input") if isinstance(content, dict) else None
    if isinstance(spec, dict) and spec.get("resize") == "fit":
        spec["resize"] = "stretch"
        _warn_of_fit(path)


@functools.cache  # one warning per file, however often it is read
def _warn_of_fit(path: Path) -> None:
    _log.warning("%s says resize: fit, which the next release refuses; write resize: stretch instead", path)


def write(path: Path, document: BaseModel) -> None:
    """Write a document as YAML, with its keys in the order of the class."""
    content = document.model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the hash of a file: `sha256:` and 64 hexadecimal digits."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def version_folders(model_folder: Path) -> list[tuple[int, Path]]:
    """Return the number and folder of each version of a model, newest first.

    Folders without `version.yaml` are not versions.
    """
    numbered = (
        (int(entry.name), entry)
        for entry in model_folder.iterdir()
        if entry.name.isascii() and entry.name.isdecimal() and not entry.name.startswith("0")
    )
    return sorted((pair for pair in numbered if (pair[1] / VERSION_FILE).is_file()), reverse=True)

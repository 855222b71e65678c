"""The golden check: does a version give the same answers on this device as PyTorch gave?

It has three steps: the hash of every file, the arrays of `golden.npz` within the variant's tolerance, and the
raw files of `golden/` from file to answer. The loader runs it before a version is ready; training runs it
after an export.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import KotaeError, ModelRejected
from service.repository.manifest import (
    GOLDEN_ARRAYS_FILE,
    GOLDEN_CASES_FILE,
    VERSION_FILE,
    GoldenCases,
    Variant,
    VersionFacts,
    read,
    sha256_of,
)
from service.tasks import Limits, Task, answer_one

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]

INPUT_PREFIX = "inputs."
OUTPUT_PREFIX = "outputs."

# What NumPy raises on damaged files and on other files.
_READ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
)


def check_files(folder: Path, facts: VersionFacts) -> None:
    """Compare every file of the version with its hash in `version.yaml`.

    Raises:
        ModelRejected: A file is missing, has another hash or has none in the list.
    """
    needed = {GOLDEN_ARRAYS_FILE, GOLDEN_CASES_FILE, *(variant.file for variant in facts.variants)}
    needed |= {facts.labels} if facts.labels else set()
    needed |= {facts.input.tokenizer} if facts.input.kind == "text" else set()
    if (speech := facts.transcription) is not None:
        needed |= {name for name in (speech.tokens, speech.words, speech.language_model) if name}
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    if unlisted := sorted((needed | present - {VERSION_FILE}) - facts.files.keys()):
        raise ModelRejected(f"version.yaml lists no hash for {', '.join(unlisted)}")
    for name, expected in facts.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelRejected(f"{name} is missing")
        if sha256_of(path) != expected:
            raise ModelRejected(f"{name} is not the file that was exported: its hash differs")


def check_arrays(folder: Path, variant: Variant, task: Task, run: Run) -> dict[str, float]:
    """Run the inputs of `golden.npz` and compare every output with what PyTorch gave.

    Args:
        folder: The version's folder.
        variant: The variant, for its tolerances.
        task: The version's task.
        run: Runs the graph on one batch.

    Returns:
        The largest absolute difference, by output name.

    Raises:
        ModelRejected: An output is missing, has another shape, or differs by more than its tolerance.
    """
    inputs, expected = read_golden_arrays(folder)
    if missing := sorted(task.outputs.keys() - expected.keys()):
        raise ModelRejected(f"{GOLDEN_ARRAYS_FILE} has no output {', '.join(missing)}")
    try:
        outputs = run(inputs)
    except KotaeError as error:
        raise ModelRejected(f"the graph does not run on {GOLDEN_ARRAYS_FILE}: {error}") from error
    for name, wanted in expected.items():
        if name not in outputs:
            raise ModelRejected(f"the graph has no output {name}")
        if outputs[name].shape != wanted.shape:
            shapes = f"{list(outputs[name].shape)}, expected {list(wanted.shape)}"
            raise ModelRejected(f"output {name} has shape {shapes}")
    differences = task.differences(expected, outputs)
    for name, difference in differences.items():
        tolerance = variant.tolerance.get(name)
        if tolerance is None:
            raise ModelRejected(f"{variant.file} states no tolerance for output {name}")
        if not difference <= tolerance:  # also refuses NaN
            raise ModelRejected(
                f"output {name} differs from PyTorch by {difference:.3g}; the tolerance is {tolerance:g}"
            )
    task.check_outputs(outputs)
    return differences


def read_golden_arrays(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the inputs and the expected outputs of `golden.npz`, by tensor name, batch axis first.

    Raises:
        ModelRejected: The file cannot be read, or has no inputs or no outputs.
    """
    try:
        path = folder / GOLDEN_ARRAYS_FILE
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            content = {key: arrays[key] for key in arrays.files}
    except _READ_ERRORS as error:
        raise ModelRejected(f"{GOLDEN_ARRAYS_FILE} cannot be read: {error}") from error
    inputs = {k.removeprefix(INPUT_PREFIX): v for k, v in content.items() if k.startswith(INPUT_PREFIX)}
    outputs = {k.removeprefix(OUTPUT_PREFIX): v for k, v in content.items() if k.startswith(OUTPUT_PREFIX)}
    if not inputs or not outputs or any(array.size == 0 for array in content.values()):
        raise ModelRejected(f"{GOLDEN_ARRAYS_FILE} has no inputs or no outputs")
    return inputs, outputs


def write_golden_arrays(folder: Path, inputs: Arrays, outputs: Arrays) -> None:
    """Write `golden.npz`; see `read_golden_arrays`."""
    arrays = {INPUT_PREFIX + name: array for name, array in inputs.items()}
    arrays |= {OUTPUT_PREFIX + name: array for name, array in outputs.items()}
    np.savez_compressed(folder / GOLDEN_ARRAYS_FILE, **arrays)  # type: ignore[arg-type]


def check_cases(
    folder: Path, task: Task, run: Run, limits: Limits, answer_tolerance: float | None = None
) -> None:
    """Answer every raw file of `golden/` and compare with the expected answers.

    Args:
        folder: The version's folder.
        task: The version's task.
        run: Runs the graph on one batch.
        limits: Limits on decoding.
        answer_tolerance: The variant's tolerance; a larger tolerance of a case takes precedence.

    Raises:
        ModelRejected: A file cannot be decoded, or its answer differs; the text names the file.
    """
    parameters = task.parameters()
    for case in read(folder / GOLDEN_CASES_FILE, GoldenCases).cases:
        try:
            raw = (folder / "golden" / case.file).read_bytes()
            answer = answer_one(task, run, raw, limits, parameters)
        except (OSError, KotaeError) as error:
            raise ModelRejected(f"golden/{case.file}: {error}") from error
        if problem := task.agrees(case.answer, answer, max(case.tolerance, answer_tolerance or 0.0)):
            raise ModelRejected(f"golden/{case.file}: {problem}")

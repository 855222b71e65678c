"""`kotae-train quantize`: write a version with a smaller variant beside the fp32 one.

The new version contains every file of the newest version and the smaller graph: int8 for CPUs, with scales
from the validation part, or fp16 for GPUs. Both variants are evaluated on the test part, from raw file to
answer. If a metric loses more than is allowed, nothing is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from service.engine.devices import Device, open_session
from service.repository.manifest import (
    MANIFEST_FILE,
    VERSION_FILE,
    ModelManifest,
    Variant,
    VersionFacts,
    read,
    write,
)
from service.tasks import TASKS
from service.tasks.task import Raw
from training.core.card import CARD_FILE
from training.core.comparison import (
    VariantComparison,
    comparison_table,
    extend_card,
    lost_points,
    measure_speeds,
)
from training.core.int8 import Batch
from training.core.job import current_commit, newest_version
from training.core.variant import Precision, decode_batches, make_variant, measuring_device
from training.core.version_folder import Destination, hashes, publish
from training.errors import DataRejected, ExportFailed

CALIBRATION_ITEMS = 200


@dataclass(frozen=True, slots=True)
class QuantizationData:
    """What a smaller variant is made and measured with.

    Attributes:
        items: Raw items of the validation part, of which some are used.
        measure: Returns the test metrics of the first variant of the facts.
        guarded: Names of the metrics that must not get worse, and whether higher is better.
    """

    items: Sequence[Raw]
    measure: Callable[[Path, VersionFacts], Mapping[str, float]]
    guarded: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class QuantizationRequest:
    """The arguments of `kotae-train quantize`.

    Attributes:
        model: The model's folder.
        destination: Where the version goes.
        most_loss: Points that a guarded metric may lose.
        command: The command as it was typed, for provenance.
        precision: Precision of the variant.
    """

    model: Path
    destination: Destination
    most_loss: float
    command: str
    precision: Precision = "int8"


def quantize_model(request: QuantizationRequest, data: QuantizationData, console: Console) -> Path:
    """Write a version with a smaller variant.

    Args:
        request: The model, the precision, and the allowed loss.
        data: The recipe's data and metrics.
        console: Where progress is printed.

    Returns:
        The new version's folder.

    Raises:
        DataRejected: The model has no version with an fp32 variant, or the new version exists.
        ExportFailed: A metric loses too much, or the golden check fails; nothing was written.
    """
    source = newest_version(request.model)
    if source is None:
        raise DataRejected(f"there is no version of {request.model}: export one first")
    manifest = read(request.model / MANIFEST_FILE, ModelManifest)
    facts = read(source / VERSION_FILE, VersionFacts)
    plain = next((variant for variant in facts.variants if variant.precision == "fp32"), None)
    if plain is None:
        raise DataRejected(f"{source} has no fp32 variant to start from")
    precision, device = request.precision, measuring_device(request.precision)

    def fill(folder: Path) -> tuple[VersionFacts, VariantComparison]:
        _copy_version(source, folder, facts, precision)
        task = TASKS[manifest.task](folder, facts)
        batches = decode_batches(task, data.items[:CALIBRATION_ITEMS])
        console.print(f"{precision} out of {source}, measured on {device}", highlight=False)
        small = make_variant(folder, task, plain, precision, batches)
        before, after = (
            data.measure(folder, facts.model_copy(update={"variants": (variant,)}))
            for variant in (plain.model_copy(update={"measured_on": device.kind}), small)
        )
        _refuse_losses(precision, before, after, data.guarded, request.most_loss)
        comparison = VariantComparison(
            precision,
            device.kind,
            before,
            after,
            _speeds(folder, plain, small, batches),
            small.fp32_operators,
        )
        made = _facts(folder, facts, small, comparison, request.command)
        write(folder / VERSION_FILE, made)
        return made, comparison

    folder, comparison = publish(manifest, request.destination, fill)
    card = request.model / CARD_FILE
    if card.exists() and folder.parent.resolve() == request.model.resolve():
        extend_card(card, folder.name, source.name, comparison, request.command)
    console.print(comparison_table(comparison, f"{manifest.name}: {precision} beside fp32"))
    if not comparison.worth_it:
        why = "is hardly faster here" if comparison.speeds else "was not timed, for want of a GPU"
        console.print(f"{precision} {why}: fp32 stays the first choice", highlight=False)
    console.print(f"quantised and checked: {folder}", highlight=False)
    return folder


def _speeds(folder: Path, plain: Variant, small: Variant, batches: Sequence[Batch]) -> dict[int, float]:
    """Time both variants on the device that the smaller one is made for; return {} without it."""
    if small.measured_on is None or small.measured_on not in small.devices:
        return {}
    slow, fast = (
        open_session(folder / variant.file, Device(small.measured_on)) for variant in (plain, small)
    )
    return measure_speeds(slow, fast, batches)


def _refuse_losses(
    precision: Precision,
    before: Mapping[str, float],
    after: Mapping[str, float],
    guarded: Mapping[str, bool],
    most_loss: float,
) -> None:
    for name, points in lost_points(before, after, guarded).items():
        if not points <= most_loss:  # also refuses NaN
            raise ExportFailed(
                f"{precision} loses {points:.2f} points of {name} "
                f"({before[name]:.2%} becomes {after[name]:.2%}), and --most-loss allows {most_loss:g}. "
                "Nothing was written"
            )


def _copy_version(source: Path, folder: Path, facts: VersionFacts, precision: Precision) -> None:
    """Copy the files of a version, without an older variant of the same precision."""
    dropped = {variant.file for variant in facts.variants if variant.precision == precision}
    for name in facts.files.keys() - dropped:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _facts(
    folder: Path, facts: VersionFacts, small: Variant, comparison: VariantComparison, command: str
) -> VersionFacts:
    """Return the version's facts with the new variant, which comes first if it is faster."""
    measured = {"fp32": comparison.before, small.precision: comparison.after}
    others = [variant for variant in facts.variants if variant.precision != small.precision]
    ordered = tuple(
        variant.model_copy(
            update={"metrics": _rounded(measured[variant.precision]), "measured_on": small.measured_on}
        )
        if variant.precision in measured
        else variant
        for variant in ([small, *others] if comparison.worth_it else [*others, small])
    )
    provenance = facts.provenance.model_copy(
        update={"command": f"{facts.provenance.command}\n{command}", "commit": current_commit()}
    )
    return facts.model_copy(
        update={
            "created": datetime.now(UTC).replace(microsecond=0),
            "provenance": provenance,
            "variants": ordered,
            "metrics": {**facts.metrics, **ordered[0].metrics},
            "files": hashes(folder),
        }
    )


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in figures.items()}

"""The `kotae tune` command: measures a model, prints a table, writes the override file and a plot."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service.engine import devices
from service.engine.runtime.cpus import available_cpus
from service.engine.runtime.session import Device, Session
from service.errors import StartFailed
from service.repository.manifest import (
    MANIFEST_FILE,
    VERSION_FILE,
    Batching,
    ModelManifest,
    VersionFacts,
    read,
    version_folders,
)
from service.repository.overrides import ModelOverrides, Overrides, read_overrides, write_overrides
from service.repository.sessions import choose_variant
from service.tools.tuning.choice import meets_deadline, pareto_front
from service.tools.tuning.items import make_items
from service.tools.tuning.sweep import Measurement, TuningSetting, settings_for, sweep

_ROUNDS = 3
_FULL_BATCHES = 4  # items are made for this number of the largest batches
_MAX_ITEMS = 1024
_IDLE_HOST_CPU_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """Options of a tuning run.

    Attributes:
        folder: The model's folder.
        device: Used for `auto` in the manifest.
        precision: Of the variant; `auto` is the one that would serve.
        max_items: Largest batch to try; None is the manifest's.
        seconds: Approximate duration of the sweep.
    """

    folder: Path
    device: str = "auto"
    precision: str = "auto"
    max_items: int | None = None
    seconds: float = 60.0


def tune(options: TuningOptions, console: Console) -> tuple[ModelManifest, list[Measurement]]:
    """Measure every setting and show a progress bar.

    Raises:
        StartFailed: The folder holds no model or no version.
        ModelRejected: The files of the model are wrong.
    """
    if not (options.folder / MANIFEST_FILE).is_file():
        raise StartFailed(f"{options.folder} is not a model: it holds no {MANIFEST_FILE}")
    manifest = read(options.folder / MANIFEST_FILE, ModelManifest)
    versions = version_folders(options.folder)
    if not versions:
        raise StartFailed(f"{options.folder} holds no version")
    folder = versions[0][1]
    facts = read(folder / VERSION_FILE, VersionFacts)
    asked = options.device if manifest.devices[0] == "auto" else manifest.devices[0]
    device = devices.choose_devices(asked)[0]
    variant = choose_variant(facts, device, options.precision)
    cpus = available_cpus()
    max_items = options.max_items or manifest.batching.max_items
    settings = settings_for(cpus if device.kind == "cpu" else 1, max_items)
    items = make_items(folder, facts, min(_MAX_ITEMS, _FULL_BATCHES * max_items))

    def open_session(setting: TuningSetting, lane: int) -> Session:
        on = Device(device.kind, device.index + lane)
        spinning = setting.threads > 1 and setting.lanes * setting.threads <= cpus
        return devices.open_session(folder / variant.file, on, threads=setting.threads, spinning=spinning)

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"tuning {manifest.name}", total=_ROUNDS * len(settings))
        measured = sweep(
            settings,
            items,
            open_session,
            seconds=options.seconds,
            rounds=_ROUNDS,
            max_cost=manifest.batching.max_cost,
            tick=lambda: progress.advance(bar),
        )
    return manifest, measured


def print_table(
    measured: Sequence[Measurement], best: Measurement | None, deadline_seconds: float, console: Console
) -> None:
    """Print all settings; mark the Pareto front and the best one."""
    ahead = {one.setting for one in pareto_front(measured)}
    limit = f"within {deadline_seconds * 1000:g} ms"
    table = Table("lanes", "threads", "max_items", "items/s", "batch ms", "busy answer ms", limit, "front")
    for one in sorted(measured, key=lambda one: one.setting):
        table.add_row(
            str(one.setting.lanes),
            str(one.setting.threads),
            str(one.setting.max_items),
            f"{one.items_per_second:.1f}",
            f"{one.batch_seconds * 1000:.2f}",
            f"{one.answer_seconds * 1000:.2f}",
            "yes" if meets_deadline(one, deadline_seconds) else "no",
            "best" if one is best else "front" if one.setting in ahead else "",
            style="bold green" if one is best else None,
        )
    console.print(table)
    if (share := statistics.median(one.cpu_share for one in measured)) < _IDLE_HOST_CPU_SHARE:
        console.print(
            f"[yellow]other processes used the CPU: sessions ran {share:.0%} of their time; "
            "measure again on an idle host"
        )


def draw(
    measured: Sequence[Measurement], best: Measurement | None, deadline_seconds: float, path: Path
) -> None:
    """Draw answer time over rate.

    Raises:
        StartFailed: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 # slow import, optional dependency
    except ImportError as error:
        raise StartFailed("no picture: matplotlib is not installed; pip install matplotlib") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(measured, key=lambda one: one.setting)
    for (lanes, threads), found in itertools.groupby(
        ordered, lambda one: (one.setting.lanes, one.setting.threads)
    ):
        group = list(found)
        rates = [one.items_per_second for one in group]
        waits = [one.answer_seconds * 1000 for one in group]
        axes.plot(rates, waits, "o-", alpha=0.7, label=f"lanes {lanes}, threads {threads}")
        for one, rate, wait in zip(group, rates, waits, strict=True):
            axes.annotate(str(one.setting.max_items), (rate, wait), textcoords="offset points", xytext=(4, 4))
    ahead = pareto_front(measured)
    axes.plot(
        [one.items_per_second for one in ahead],
        [one.answer_seconds * 1000 for one in ahead],
        color="black",
        linewidth=1,
        linestyle="--",
        label="Pareto front",
    )
    if best is not None:
        axes.plot([best.items_per_second], [best.answer_seconds * 1000], "*", color="tab:red", markersize=14)
    axes.axhline(deadline_seconds * 1000, color="tab:red", linewidth=1, label="deadline")
    axes.set_yscale("log")
    axes.set_xlabel("items a second, all lanes busy")
    axes.set_ylabel("answer on a busy host, ms (beside the points: max_items)")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)


def save_overrides(name: str, best: Measurement, path: Path, precision: str = "auto") -> Overrides:
    """Write the best setting to the override file, without changing its other contents.

    Raises:
        StartFailed: The file cannot be read or written.
    """
    present = read_overrides(path if path.exists() else None)
    before = present.for_model(name)
    batching = before.batching or Batching()
    written = {key: getattr(batching, key) for key in batching.model_fields_set if before.batching}
    changes: dict[str, object] = {
        "lanes": best.setting.lanes,
        "threads": best.setting.threads,
        "batching": Batching(**{**written, "max_items": best.setting.max_items}),
    }
    if precision != "auto":
        changes["precision"] = precision
    kept = {key: getattr(before, key) for key in before.model_fields_set}
    overrides = present.with_model(name, ModelOverrides.model_validate({**kept, **changes}))
    try:
        write_overrides(path, overrides)
    except OSError as error:
        raise StartFailed(f"{path} cannot be written: {error}") from error
    return overrides

"""The `kotae tune` command: a model's folder in; a table, a picture and the host's override file out."""

from __future__ import annotations

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
from service.repository.loader import choose_variant
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
from service.tools.tuning.choice import fits, front
from service.tools.tuning.items import samples
from service.tools.tuning.sweep import Measured, Setting, SweepSetting, placements, sizes, sweep

_ROUNDS = 3
_BATCHES_TO_FILL = 4  # so many of the largest batches are made
_MOST_ITEMS = 1024
_QUIET_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Tuning:
    """What to tune.

    Attributes:
        folder: The model's folder.
        device: What `auto` in the manifest means.
        precision: Which variant; `auto` is the one that would serve.
        max_items: Largest batch to try; None is the manifest's.
        seconds: For the whole sweep, about.
    """

    folder: Path
    device: str = "auto"
    precision: str = "auto"
    max_items: int | None = None
    seconds: float = 60.0


def tune(wanted: Tuning, console: Console) -> tuple[ModelManifest, list[Measured]]:
    """Measure every setting and show a progress bar meanwhile.

    Raises:
        StartFailed: The folder holds no model or no version.
        ModelRejected: The model is not what its files say.
    """
    if not (wanted.folder / MANIFEST_FILE).is_file():
        raise StartFailed(f"{wanted.folder} is not a model: it holds no {MANIFEST_FILE}")
    manifest = read(wanted.folder / MANIFEST_FILE, ModelManifest)
    versions = version_folders(wanted.folder)
    if not versions:
        raise StartFailed(f"{wanted.folder} holds no version")
    folder = versions[0][1]
    facts = read(folder / VERSION_FILE, VersionFacts)
    asked = wanted.device if manifest.devices[0] == "auto" else manifest.devices[0]
    device = devices.choose_devices(asked)[0]
    variant = choose_variant(facts, device, wanted.precision)
    cpus = available_cpus()
    places = placements(cpus) if device.kind == "cpu" else [SweepSetting(1, 1)]
    most = wanted.max_items or manifest.batching.max_items
    chosen = [Setting(place, size) for place in places for size in sizes(most)]
    items = samples(folder, facts, min(_MOST_ITEMS, _BATCHES_TO_FILL * most))

    def open_session(place: SweepSetting, lane: int) -> Session:
        on = Device(device.kind, device.index + lane)
        spinning = place.threads > 1 and place.lanes * place.threads <= cpus
        return devices.open_session(folder / variant.file, on, threads=place.threads, spinning=spinning)

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"tuning {manifest.name}", total=_ROUNDS * len(chosen))
        measured = sweep(
            chosen,
            items,
            open_session,
            seconds=wanted.seconds,
            rounds=_ROUNDS,
            max_cost=manifest.batching.max_cost,
            tick=lambda: progress.advance(bar),
        )
    return manifest, measured


def print_table(
    measured: Sequence[Measured], best: Measured | None, deadline_seconds: float, console: Console
) -> None:
    """Print every setting, which of them are on the Pareto front, and the choice."""
    ahead = {one.setting for one in front(measured)}
    limit = f"within {deadline_seconds * 1000:g} ms"
    table = Table("lanes", "threads", "max_items", "items/s", "batch ms", "busy answer ms", limit, "front")
    for one in sorted(measured, key=lambda one: one.setting):
        place = one.setting.placement
        table.add_row(
            str(place.lanes),
            str(place.threads),
            str(one.setting.max_items),
            f"{one.items_per_second:.1f}",
            f"{one.batch_seconds * 1000:.2f}",
            f"{one.answer_seconds * 1000:.2f}",
            "yes" if fits(one, deadline_seconds) else "no",
            "best" if one is best else "front" if one.setting in ahead else "",
            style="bold green" if one is best else None,
        )
    console.print(table)
    if (share := statistics.median(one.cpu_share for one in measured)) < _QUIET_SHARE:
        console.print(
            f"[yellow]the host was busy with something else: sessions ran {share:.0%} of their time; "
            "measure again when it is not"
        )


def draw(measured: Sequence[Measured], best: Measured | None, deadline_seconds: float, path: Path) -> None:
    """Draw waiting over rate.

    Raises:
        StartFailed: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 # slow to load, and not needed to serve
    except ImportError as error:
        raise StartFailed("no picture: matplotlib is not installed; pip install matplotlib") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for place in sorted({one.setting.placement for one in measured}):
        group = [one for one in measured if one.setting.placement == place]
        group.sort(key=lambda one: one.setting)
        rates = [one.items_per_second for one in group]
        waits = [one.answer_seconds * 1000 for one in group]
        axes.plot(rates, waits, "o-", alpha=0.7, label=f"lanes {place.lanes}, threads {place.threads}")
        for one, rate, wait in zip(group, rates, waits, strict=True):
            axes.annotate(str(one.setting.max_items), (rate, wait), textcoords="offset points", xytext=(4, 4))
    ahead = front(measured)
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


def keep(name: str, best: Measured, path: Path, precision: str = "auto") -> Overrides:
    """Write the choice into the host's override file; whatever else stands there stays.

    Raises:
        StartFailed: The file is there and cannot be read or written.
    """
    present = read_overrides(path if path.exists() else None)
    before = present.of(name)
    batching = before.batching or Batching()
    written = {key: getattr(batching, key) for key in batching.model_fields_set if before.batching}
    place = best.setting.placement
    changes: dict[str, object] = {
        "lanes": place.lanes,
        "threads": place.threads,
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

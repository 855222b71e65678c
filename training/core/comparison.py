"""Compare a smaller variant with the fp32 one: metrics, speed, and a section of the model card."""

from __future__ import annotations

import statistics
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from service.engine.runtime.session import Session
from training.core.int8 import Batch

TIMED_BATCHES = (1, 8)  # items
WORTH_IT = 1.1  # least speed relative to fp32 for the first place
_TIMED_ITEMS = 8
_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class VariantComparison:
    """Metrics and speed of a smaller variant.

    Attributes:
        precision: Precision of the smaller variant.
        device: The kind of device on which both were measured.
        before: Metrics of the fp32 variant on the test part; `after` are those of the smaller one.
        speeds: Speed relative to fp32, by batch size; empty if the variant's kind of device is missing.
        fp32_operators: In an fp16 graph, the number of nodes that stay fp32, by operator.
    """

    precision: str
    device: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    speeds: Mapping[int, float]
    fp32_operators: Mapping[str, int] | None = None

    @property
    def worth_it(self) -> bool:
        """Whether the variant was measured to be faster at every batch size."""
        return min(self.speeds.values(), default=0.0) >= WORTH_IT


def lost_points(
    before: Mapping[str, float], after: Mapping[str, float], guarded: Mapping[str, bool]
) -> dict[str, float]:
    """Return how much worse each guarded metric became.

    Args:
        before: Metrics as shares.
        after: The same metrics.
        guarded: Names, and whether higher is better.

    Returns:
        Points (hundredths of the metric); negative if it became better.
    """
    return {
        name: (before[name] - after[name]) * (100 if more_is_better else -100)
        for name, more_is_better in guarded.items()
    }


def measure_speeds(plain: Session, small: Session, batches: Sequence[Batch]) -> dict[int, float]:
    """Measure the speed of the small graph relative to the plain one: CPU time of one thread, or GPU time.

    Args:
        plain: The fp32 graph, with one thread.
        small: The other graph, with one thread, on the same device.
        batches: Typical inputs, each a batch of one, of which a few are timed.

    Returns:
        Medians of paired ratios, by batch size.
    """
    chosen = batches[:: max(1, len(batches) // _TIMED_ITEMS)][:_TIMED_ITEMS]
    speeds = {}
    for size in TIMED_BATCHES:
        timed = [{name: np.repeat(array, size, axis=0) for name, array in batch.items()} for batch in chosen]
        ratios = []
        for number in range(_ROUNDS + 1):
            slow, fast = _seconds(plain, timed), _seconds(small, timed)
            if number:  # the first round warms up
                ratios.append(slow / fast)
        speeds[size] = round(statistics.median(ratios), 2)
    return speeds


def _seconds(session: Session, batches: Sequence[Batch]) -> float:
    clock = time.thread_time if session.device.kind == "cpu" else time.perf_counter
    started = clock()
    for batch in batches:
        session.run(batch)
    return max(1e-9, clock() - started)


def comparison_table(comparison: VariantComparison, title: str) -> Table:
    """Return the table for the terminal."""
    table = Table("", "fp32", comparison.precision, "difference", title=title)
    for row in _rows(comparison):
        table.add_row(*row)
    return table


def extend_card(card: Path, version: str, source: str, comparison: VariantComparison, command: str) -> None:
    """Append a section on a new version to a model card.

    Args:
        card: The card's file.
        version: Number of the new version.
        source: Number of the version that it was made from.
        comparison: The measurements.
        command: The command as it was typed.
    """
    rows = "\n".join(f"| {' | '.join(row)} |" for row in _rows(comparison))
    text = _int8_text(comparison) if comparison.precision == "int8" else _fp16_text(comparison)
    content = card.read_text(encoding="utf-8").rstrip("\n")
    card.write_text(
        f"""{content}

## Version {version}: {comparison.precision}

Version {source} with an {comparison.precision} variant beside the fp32 one{text}

```
{command}
```

| | fp32 | {comparison.precision} | difference |
|---|---:|---:|---:|
{rows}
""",
        encoding="utf-8",
    )


def _int8_text(comparison: VariantComparison) -> str:
    first = "int8" if comparison.worth_it else "fp32"
    return f""". The quantisation is static, with one
scale per channel of the weights. Scales are computed from items of the validation part. Measured on the
held-out part, from raw file to answer. Speed is relative to fp32, by CPU time of one thread. On a CPU,
{first} serves unless the host's overrides say otherwise."""


def _fp16_text(comparison: VariantComparison) -> str:
    first = "fp16" if comparison.worth_it else "fp32"
    where = (
        "on a GPU.\nSpeed is relative to fp32, by time on the GPU"
        if comparison.device == "cuda"
        else "on a CPU,\nwhich has no fp16 and rounds after each operator, so speed was not measured"
    )
    kept = ", ".join(f"{name} ({count})" for name, count in (comparison.fp32_operators or {}).items())
    return f""", for GPUs. Measured on the held-out part, from raw file to answer, {where}.
On a GPU, {first} serves unless the host's overrides say otherwise. Operators that stay in fp32, with the
number of nodes:
{textwrap.fill(kept, 110)}."""


def _rows(comparison: VariantComparison) -> list[tuple[str, str, str, str]]:
    figures = [
        (
            name.replace("_", " "),
            f"{value:.4f}",
            f"{comparison.after[name]:.4f}",
            f"{(comparison.after[name] - value) * 100:+.2f} points",
        )
        for name, value in comparison.before.items()
    ]
    speeds = [
        (f"speed, batches of {size}", "1", f"{speed:.2f}", "") for size, speed in comparison.speeds.items()
    ]
    return figures + speeds

"""A smaller variant beside the fp32 one: what it loses, how much faster it is, and how that is told."""

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
WORTH_IT = 1.1  # times as fast as fp32; below it fp32 stays first choice
_TIMED_ITEMS = 8
_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the smaller variant costs and gives.

    Attributes:
        precision: Of the smaller variant.
        device: The kind of device that both were measured on.
        before: Held-out figures of the fp32 variant; `after` those of the smaller one.
        speeds: Times as fast as fp32, by items in a batch; empty where there is no device that it is for.
        fp32_operators: In an fp16 graph, how many nodes stay fp32, by operator.
    """

    precision: str
    device: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    speeds: Mapping[int, float]
    fp32_operators: Mapping[str, int] | None = None

    @property
    def worth_it(self) -> bool:
        """Whether the variant is known to be faster at every size of batch."""
        return min(self.speeds.values(), default=0.0) >= WORTH_IT


def lost_points(
    before: Mapping[str, float], after: Mapping[str, float], guarded: Mapping[str, bool]
) -> dict[str, float]:
    """Tell how much worse each guarded figure became.

    Args:
        before: Figures, as shares.
        after: The same figures.
        guarded: Names, and whether more is better.

    Returns:
        Points, hundredths of the figure; below 0 where it became better.
    """
    return {
        name: (before[name] - after[name]) * (100 if more_is_better else -100)
        for name, more_is_better in guarded.items()
    }


def measure_speeds(plain: Session, small: Session, batches: Sequence[Batch]) -> dict[int, float]:
    """Measure how many times as fast the small graph is, in turn: CPU time of one thread, or time on a GPU.

    Args:
        plain: The fp32 graph, with one thread.
        small: The other, with one thread, on the same device.
        batches: Typical inputs, each a batch of one; a few of them are timed.

    Returns:
        Medians of paired ratios, by size of batch.
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


def comparison_table(comparison: Comparison, title: str) -> Table:
    """Make the table for the terminal."""
    table = Table("", "fp32", comparison.precision, "difference", title=title)
    for row in _rows(comparison):
        table.add_row(*row)
    return table


def extend_card(card: Path, version: str, source: str, comparison: Comparison, command: str) -> None:
    """Add a section on a new version to a model's card.

    Args:
        card: The file.
        version: The new version's number.
        source: The number of the version that it was made from.
        comparison: What came of it.
        command: What was typed.
    """
    rows = "\n".join(f"| {' | '.join(row)} |" for row in _rows(comparison))
    told = _int8_told(comparison) if comparison.precision == "int8" else _fp16_told(comparison)
    text = card.read_text(encoding="utf-8").rstrip("\n")
    card.write_text(
        f"""{text}

## Version {version}: {comparison.precision}

Version {source} with an {comparison.precision} variant beside the fp32 one{told}

```
{command}
```

| | fp32 | {comparison.precision} | difference |
|---|---:|---:|---:|
{rows}
""",
        encoding="utf-8",
    )


def _int8_told(comparison: Comparison) -> str:
    first = "int8" if comparison.worth_it else "fp32"
    return f""": static, a scale a channel of the
weights, scales found on items of the validation part. Measured on the held-out part, from raw file to answer;
speed is CPU time of one thread, over that of fp32. On a CPU {first} serves, unless the host's overrides say
otherwise."""


def _fp16_told(comparison: Comparison) -> str:
    first = "fp16" if comparison.worth_it else "fp32"
    where = (
        "on a GPU;\nspeed is time on it, over that of fp32"
        if comparison.device == "cuda"
        else "on a CPU,\nwhich has no fp16 and rounds after each operator; so its speed was not measured"
    )
    kept = ", ".join(f"{name} ({count})" for name, count in (comparison.fp32_operators or {}).items())
    return f""", for GPUs. Measured on the held-out part, from raw file to answer, {where}.
On a GPU {first} serves, unless the host's overrides say otherwise. In fp32 stay, with the number of nodes:
{textwrap.fill(kept, 110)}."""


def _rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
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

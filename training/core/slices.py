"""Metrics by slices of the test part; a slice is named `kind: value`, such as `condition: noisy`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")


def slices_of_kind(slices: Mapping[str, Value], kind: str) -> dict[str, Value]:
    """Return the slices of a kind, by value."""
    start = f"{kind}: "
    return {name.removeprefix(start): one for name, one in slices.items() if name.startswith(start)}


def kinds_of_slices(slices: Iterable[str], first: Sequence[str]) -> list[str]:
    """Return the kinds of slices but `condition`: those of `first` in their order, then the others sorted."""
    kinds = {name.partition(": ")[0] for name in slices} - {"condition"}
    return [*(kind for kind in first if kind in kinds), *sorted(kinds - set(first))]

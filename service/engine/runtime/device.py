"""A place where sessions run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """One CPU lane, or one CUDA device.

    Attributes:
        kind: `cpu` or `cuda`.
        index: The number of the lane or of the GPU.
    """

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self == Device("cpu") else f"{self.kind}:{self.index}"

"""The graph that a version's figures are measured with, on the kind of device that they were measured on."""

from __future__ import annotations

from pathlib import Path

from service.engine.runtime.cpus import available_cpus
from service.engine.runtime.session import Device, Session, cuda_problem
from service.repository.manifest import VersionFacts


def open_graph(folder: Path, facts: VersionFacts) -> Session:
    """Load the first variant of a version.

    Args:
        folder: The version's folder.
        facts: The version's facts.

    Returns:
        A session on the GPU if the variant was measured on one and there is one here, else on the CPU.
    """
    variant = facts.variants[0]
    on_gpu = variant.measured_on == "cuda" and not cuda_problem()
    return Session(folder / variant.file, Device("cuda" if on_gpu else "cpu"), threads=available_cpus())

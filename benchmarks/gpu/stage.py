"""What all parts share: the plan, the graphs, and each way to run them at its best batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.model_folder import MODEL
from benchmarks.gpu.networks import Network, image_size
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.ways import Bare, OutOfMemory, Unavailable, Way
from benchmarks.workloads import Workload

BATCHES = (1, 16, 64, 256)
_CPU_BATCHES = (1, 8)
_QUICK_BATCHES = (1, 2)


@dataclass(frozen=True, slots=True)
class Stage:
    """What all parts are measured with.

    Attributes:
        root: Folder with the model repository, and room for files.
        networks: By name.
        workload: ResNet-50's folder.
    """

    plan: Plan
    results: Results
    root: Path
    networks: Mapping[str, Network]
    workload: Workload
    _best: dict[Way, Bare] = field(default_factory=dict)

    @property
    def resnet(self) -> Network:
        """ResNet-50."""
        return self.networks[MODEL]

    @property
    def side(self) -> int:
        """Side of its input in pixels."""
        return image_size(small=self.plan.quick)

    @property
    def device(self) -> str:
        """The service's device: one GPU, as the bare device has one."""
        return "cuda:0" if self.plan.device == "cuda" else "cpu"

    def goal(self, value: float) -> float | None:
        """Return a goal where it has a meaning, on a GPU at full size; else None."""
        return value if self.plan.device == "cuda" and not self.plan.quick else None

    def ceiling(self, precision: str) -> Bare:
        """Return the bare device with ResNet-50 at its best batch size."""
        return self.best(Way("cuda" if self.plan.device == "cuda" else "cpu", precision))

    def best(self, way: Way) -> Bare:
        """Return a way at the batch size at which it runs ResNet-50 fastest. Each size is tried briefly.

        Raises:
            Unavailable: The way does not work here.
        """
        if way in self._best:
            return self._best[way]
        plan, path = self.plan, self.resnet.paths[way.precision]
        best, most = None, 0.0
        for items in self._batches(way):
            plan.require(plan.seconds)
            try:
                bare = Bare(path, way, self.resnet.batch(items), len(plan.service))
            except OutOfMemory:
                break
            if (rate := bare.rate(plan.seconds / 4)) > most:
                best, most = bare, rate
        if best is None:
            raise Unavailable("the device has no memory for one picture")
        self._best[way] = best
        return best

    def _batches(self, way: Way) -> tuple[int, ...]:
        if self.plan.quick:
            return _QUICK_BATCHES
        return _CPU_BATCHES if way.provider == "cpu" else BATCHES

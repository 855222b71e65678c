"""What runs the models for the HTTP side: catalog and lanes, in this process or in another one."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from service.engine.devices import choose_devices, cuda_problem, gpu_names
from service.engine.lane.lanes import Lanes, LaneState
from service.engine.observer import Observer
from service.engine.runtime.cpus import CpuPlan, Share, plan_cpus, usable_cpus
from service.repository.catalog import Catalog
from service.repository.loader import LoadOptions
from service.repository.overrides import Overrides, read_overrides
from service.settings import Settings
from service.tasks import Limits
from service.telemetry.logs import set_log_level


class LaneStates(Protocol):
    """The lanes as probes and metrics see them."""

    def states(self) -> list[LaneState]:
        """Return the state of every lane."""

    def request_heartbeat(self) -> None:
        """Ask every idle lane for a heartbeat."""

    def stop(self) -> None:
        """End every lane after its running batch."""


async def _here() -> None:
    """The engine is in this process."""


@dataclass(frozen=True)
class Backend:
    """Models and lanes, and what the HTTP side needs to know of them.

    Attributes:
        begin: Awaited once, before anything is accepted: models load from now on.
        described: What is logged about it at the start.
        back: Waits, for a limited time, while an engine in another process restarts.
        beat: Called at every heartbeat with whether the service is ready.
        set_level: Changes the log level in all processes.
    """

    catalog: Catalog
    lanes: LaneStates
    begin: Callable[[], Awaitable[None]]
    described: Mapping[str, object] = field(default_factory=dict)
    back: Callable[[], Awaitable[None]] = _here
    beat: Callable[[bool], None] = lambda ready: None
    set_level: Callable[[str], None] = set_log_level


def open_backend(settings: Settings, observer: Observer) -> Backend:
    """Return a backend that runs the models in this process.

    Raises:
        StartFailed: The models folder or the device that was asked for is not there.
    """
    device = _device(settings)
    overrides = read_overrides(settings.overrides)
    plan = _cpu_plan(settings, overrides)
    options = LoadOptions(
        device=device,
        gpu_provider=settings.gpu_provider,
        tensorrt_cache=settings.tensorrt_cache,
        cpu=plan,
        overrides=overrides,
        limits=limits_of(settings),
    )
    lanes = Lanes(observer, restart_limit=settings.lane_restart_limit)
    catalog = Catalog(settings.models, lanes, observer, options)
    catalog.discover()

    async def begin() -> None:
        threading.Thread(target=catalog.load, name="load", daemon=True).start()

    return Backend(
        catalog=catalog,
        lanes=lanes,
        begin=begin,
        described={"cpu": asdict(plan), "device": _described(settings, device)},
    )


def _device(settings: Settings) -> str:
    """Return the device; what `auto` means is decided here, once.

    Raises:
        StartFailed: The device that was asked for is not there.
    """
    devices = choose_devices(settings.device, settings.gpu_provider)
    return devices[0].kind if settings.device == "auto" else settings.device


def _described(settings: Settings, device: str) -> dict[str, object]:
    """Describe the default device for the log, and why it is not a GPU if it could have been one."""
    if device != "cpu":
        return {"name": device, "gpu_provider": settings.gpu_provider, "gpus": list(gpu_names())}
    why = cuda_problem(settings.gpu_provider) if settings.device == "auto" else None
    return {"name": device, "no_gpu_because": why} if why else {"name": device}


def limits_of(settings: Settings) -> Limits:
    """Return the limits of decoding from the settings."""
    return Limits(max_pixels=settings.max_pixels, max_audio_seconds=settings.max_audio_seconds)


def _cpu_plan(settings: Settings, overrides: Overrides) -> CpuPlan:
    shares = [Share(model.lanes, model.threads) for model in overrides.models.values()]
    plan = plan_cpus(usable_cpus(), lanes=settings.cpu_lanes, threads=settings.cpu_threads, shares=shares)
    if settings.cpu_spinning == "auto":
        return plan
    return replace(plan, spinning=settings.cpu_spinning == "on")

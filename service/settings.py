"""The service's settings: one frozen, typed class, read from the environment and an optional file.

Variables are the field names in upper case behind `KOTAE_`. Built once in `__main__`, passed down.
An unknown `KOTAE_` variable stops the start, because a typing mistake must not be ignored; only what
Kubernetes itself injects for a Service named kotae is let through.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from service.errors import StartFailed

PREFIX = "KOTAE_"
CONFIG_VARIABLE = "KOTAE_CONFIG"
_KUBERNETES = re.compile(r"^KOTAE_(.+_)?(PORT_\d+_.+|SERVICE_(HOST|PORT(_.+)?))$")
_SERVICE_ADDRESS = re.compile(r"^(tcp|udp|sctp)://")

_log = logging.getLogger(__name__)

Seconds = Annotated[float, Field(ge=0, le=86400)]


class Settings(BaseSettings):
    """Everything that an operator can set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    models: Path = Field(Path("models"), description="Folder of models, one sub-folder each.")
    auth: Literal["auto", "required", "off"] = Field(
        "auto", description="API keys: `auto` is off on loopback and required on any other address."
    )
    keys_file: Path | None = Field(
        None, description="YAML file of hashed API keys; read again when it changes."
    )
    operations_port: int | None = Field(
        None, ge=0, le=65535, description="Port of its own for `/metrics` and `/admin`; else the main port."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="What `auto` in a manifest means: `auto`, `cpu`, `cuda` or `cuda:N`. "
        "`cuda` is every GPU that the process sees. Asked for CUDA where there is none, the start fails.",
    )
    gpu_provider: Literal["cuda", "tensorrt"] = Field(
        "cuda",
        description="What runs graphs on GPUs: `cuda`, or `tensorrt`, which builds engines when a model is "
        "first loaded and leaves to CUDA what it cannot run.",
    )
    tensorrt_cache: Path = Field(
        Path("~/.cache/kotae/tensorrt"),
        description="Folder in which TensorRT keeps its engines and timings.",
    )
    cpu_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of each ONNX Runtime session on the CPU; by default the usable CPUs "
        "(affinity and cgroup quota), of four and more all but one, divided by the lanes, "
        "and 1 for a graph that takes less than 2 ms.",
    )
    cpu_lanes: int = Field(
        1, ge=1, le=64, description="How many batches run at once on the CPU, each with its own threads."
    )
    cpu_spinning: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether threads of a running session wait awake; "
        "`auto` does while those of all lanes leave a CPU free.",
    )
    http_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes that do HTTP, decoding and encoding for one process that runs the models; "
        "0 is one process for all.",
    )
    http_worker_memory_bytes: int = Field(
        256 * 2**20,
        ge=2**24,
        description="Most bytes of tensors on their way from one HTTP worker to the models; "
        "as many may be on their way back.",
    )
    restart_patience_seconds: Seconds = Field(
        10.0,
        description="With HTTP workers: how long requests wait while the models' process is being started.",
    )
    decode_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads that decode inputs; by default one a usable CPU, divided by the HTTP workers.",
    )
    overrides: Path | None = Field(
        None, description="YAML file of what this host changes about models, such as `kotae tune` writes."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="Largest request body.")
    max_inflight_bytes: int = Field(
        512 * 2**20, ge=1024, description="Most bytes of bodies held at once; more are refused with 429."
    )
    max_items_per_request: int = Field(2048, ge=1, le=65536, description="Most items in one request.")
    max_pixels: int = Field(
        50_000_000,
        ge=1,
        description="Most pixels, width x height, of a picture; decoding may need 10 bytes for each.",
    )
    max_audio_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        3600.0,
        description="Most sound in a request; an hour of speech needs about 400 MB while it is answered.",
    )
    body_timeout_seconds: Seconds = Field(30.0, description="Longest time for a body to arrive.")
    keep_alive_seconds: int = Field(
        75, ge=1, le=3600, description="How long an idle connection is kept; longer than a load balancer's."
    )
    max_connections: int = Field(
        1000, ge=1, description="Most connections open at once; another one is closed at once."
    )
    drain_grace_seconds: Seconds = Field(
        5.0, description="After SIGTERM: how long new requests are still served while readiness is red."
    )
    drain_limit_seconds: Seconds = Field(
        25.0, description="After the grace: how long accepted requests may take to finish."
    )
    heartbeat_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        1.0, description="How often lanes are asked for a sign of life."
    )
    heartbeat_limit_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        10.0, description="Not ready when an idle lane has been silent for longer."
    )
    batch_limit_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        60.0, description="Not live when one batch runs for longer."
    )
    event_loop_lag_limit_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        10.0, description="Not live when the event loop was late by more."
    )
    lane_restart_limit: int = Field(
        5, ge=0, le=100, description="Not live when a lane died more often than this in a row."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over the YAML file that `KOTAE_CONFIG` names over defaults."""
        file = os.environ.get(CONFIG_VARIABLE)
        return init_settings, _Environment(settings_cls), YamlConfigSettingsSource(settings_cls, file)


class _Environment(EnvSettingsSource):
    def _load_env_vars(self) -> Mapping[str, str | None]:
        injected = {name.lower() for name in _injected_names()}
        return {name: value for name, value in super()._load_env_vars().items() if name not in injected}


def load_settings(**overrides: Any) -> Settings:
    """Build the settings.

    Args:
        overrides: Command-line values by field name; None means not given.

    Raises:
        StartFailed: A value is out of range, a name is unknown or the file cannot be read.
    """
    injected = _injected_names()
    if injected:
        _log.warning("ignoring variables that Kubernetes injected: %s", ", ".join(sorted(injected)))
    known = {PREFIX + field.upper() for field in Settings.model_fields} | {CONFIG_VARIABLE}
    ours = {name for name in os.environ if name.startswith(PREFIX)}
    if unknown := sorted(ours - known - injected):
        raise StartFailed(f"unknown setting in the environment: {', '.join(unknown)}")
    file = os.environ.get(CONFIG_VARIABLE)
    if file and not Path(file).is_file():
        raise StartFailed(f"settings file {file} does not exist")
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise StartFailed(f"settings: {problems}") from error
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise StartFailed(f"settings: {' '.join(str(error).split())}") from error


def _injected_names() -> set[str]:
    """Name the variables that Kubernetes injects into pods beside a Service called kotae."""
    return {
        name
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and (_KUBERNETES.match(name) or _SERVICE_ADDRESS.match(value))
    }

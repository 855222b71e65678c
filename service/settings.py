"""The service's settings: one frozen, typed class, read from the environment and an optional YAML file.

A variable is the field's name in upper case with the prefix `KOTAE_`. The settings are built once, in
`__main__`, and passed on. An unknown `KOTAE_` variable stops the start, so that a misspelt name is not
ignored. Variables that Kubernetes injects for a Service named kotae are ignored.
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

# Settings that were renamed: old name -> new name. The old names are removed in the next release.
RENAMED = {
    "http_worker_memory_bytes": "http_worker_shared_memory_bytes",
    "restart_patience_seconds": "engine_restart_timeout_seconds",
}

_log = logging.getLogger(__name__)

Seconds = Annotated[float, Field(ge=0, le=86400)]


class Settings(BaseSettings):
    """All settings of the service."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    models: Path = Field(Path("models"), description="Folder of models; each model has its own sub-folder.")
    auth: Literal["auto", "required", "off"] = Field(
        "auto",
        description="Whether requests need an API key; `auto` needs one except on loopback addresses.",
    )
    keys_file: Path | None = Field(
        None, description="YAML file of hashed API keys; it is read again when it changes."
    )
    operations_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Separate port for `/metrics` and `/admin`; by default they are on the main port.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Device of models whose manifest says `auto`: `auto`, `cpu`, `cuda` or `cuda:N`. "
        "`cuda` means every GPU that the process sees; without a GPU the start fails.",
    )
    gpu_provider: Literal["cuda", "tensorrt"] = Field(
        "cuda",
        description="ONNX Runtime's execution provider on GPUs. `tensorrt` builds an engine when a model is "
        "first loaded; operators that it does not support run on CUDA.",
    )
    tensorrt_cache: Path = Field(
        Path("~/.cache/kotae/tensorrt"),
        description="Folder of TensorRT's engine and timing cache.",
    )
    cpu_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of each ONNX Runtime session on the CPU. By default the usable CPUs "
        "(affinity and cgroup quota), minus one if there are four or more, divided by `KOTAE_CPU_LANES`; "
        "1 for a graph that takes less than 2 ms.",
    )
    cpu_lanes: int = Field(
        1,
        ge=1,
        le=64,
        description="Lanes on the CPU. Each runs one batch at a time, with its own threads.",
    )
    cpu_spinning: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether ONNX Runtime's threads spin while they wait for work; `auto` lets them spin "
        "if the threads of all lanes leave a CPU free.",
    )
    http_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes that serve HTTP, decode inputs and encode outputs, in front of one engine "
        "process that runs the models. 0 runs everything in one process.",
    )
    http_worker_shared_memory_bytes: int = Field(
        256 * 2**20,
        ge=2**24,
        description="Shared memory for input tensors between one HTTP worker and the engine; "
        "output tensors have the same amount.",
    )
    engine_restart_timeout_seconds: Seconds = Field(
        10.0,
        description="With HTTP workers: longest time that a request waits while the engine process restarts.",
    )
    decode_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads that decode inputs; by default one per usable CPU, divided by the HTTP workers.",
    )
    overrides: Path | None = Field(
        None, description="YAML file of model settings for this host, such as `kotae tune` writes."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged."
    )
    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="Largest request body.")
    max_inflight_bytes: int = Field(
        512 * 2**20,
        ge=1024,
        description="Most bytes of request bodies in memory at once; more are rejected with 429.",
    )
    max_items_per_request: int = Field(2048, ge=1, le=65536, description="Most items in one request.")
    max_pixels: int = Field(
        50_000_000,
        ge=1,
        description="Most pixels (width x height) of an image; decoding may need 10 bytes per pixel.",
    )
    max_audio_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        3600.0,
        description="Longest audio in a request; an hour of speech needs about 400 MB while it is processed.",
    )
    body_timeout_seconds: Seconds = Field(30.0, description="Longest time for a request body to arrive.")
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        le=3600,
        description="Idle timeout of a connection; should be longer than the load balancer's.",
    )
    max_connections: int = Field(
        1000, ge=1, description="Most connections open at once; another one is closed at once."
    )
    drain_grace_seconds: Seconds = Field(
        5.0, description="After SIGTERM: how long new requests are still served while `/readyz` fails."
    )
    drain_limit_seconds: Seconds = Field(
        25.0, description="After the grace period: how long accepted requests may take to finish."
    )
    heartbeat_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        1.0, description="Interval of the heartbeat checks of lanes and processes."
    )
    heartbeat_limit_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        10.0, description="`/readyz` fails if an idle lane has not answered a heartbeat for longer."
    )
    batch_limit_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        60.0, description="`/healthz` fails if one batch runs for longer."
    )
    event_loop_lag_limit_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        10.0, description="`/healthz` fails if the event loop was late by more."
    )
    lane_restart_limit: int = Field(
        5,
        ge=0,
        le=100,
        description="`/healthz` fails if a lane's thread died more often than this in a row.",
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
        """Return the sources, strongest first: arguments, environment, the file of `KOTAE_CONFIG`."""
        file = os.environ.get(CONFIG_VARIABLE)
        return init_settings, _Environment(settings_cls), _File(settings_cls, file)


class _Environment(EnvSettingsSource):
    def _load_env_vars(self) -> Mapping[str, str | None]:
        injected = {name.lower() for name in _injected_names()}
        given = super()._load_env_vars()
        return _renamed({name: value for name, value in given.items() if name not in injected}, PREFIX)


class _File(YamlConfigSettingsSource):
    def __call__(self) -> dict[str, Any]:
        return _renamed(super().__call__())


def _renamed(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of one source with old names replaced by new ones.

    Args:
        given: Values by field name, in lower case.
        prefix: What stands before each field name: `KOTAE_` for variables, nothing in a file.

    Raises:
        StartFailed: The old and the new name of a setting have different values.
    """
    values = dict(given)
    for old, new in RENAMED.items():
        if (old_key := (prefix + old).lower()) not in values:
            continue
        old_name, new_name = (prefix + name.upper() if prefix else name for name in (old, new))
        value = values.pop(old_key)
        if values.setdefault((prefix + new).lower(), value) != value:
            raise StartFailed(
                f"{old_name} is the old name of {new_name}, and both are set: remove {old_name}"
            )
        _log.warning("%s is now %s; the old name is removed in the next release", old_name, new_name)
    return values


def load_settings(**overrides: Any) -> Settings:
    """Build the settings.

    Args:
        overrides: Values from the command line by field name; None means not given.

    Raises:
        StartFailed: A value is out of range, a name is unknown or the file cannot be read.
    """
    injected = _injected_names()
    if injected:
        _log.warning("ignoring variables that Kubernetes injected: %s", ", ".join(sorted(injected)))
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, *RENAMED)} | {CONFIG_VARIABLE}
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
    """Return the names of variables that Kubernetes injects for a Service named kotae."""
    return {
        name
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and (_KUBERNETES.match(name) or _SERVICE_ADDRESS.match(value))
    }

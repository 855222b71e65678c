"""The catalog decides which versions of which models are wanted, and which version answers a request.

The folders on disk and the version policy of `model.yaml` say which versions are wanted. For each of them
the catalog starts one `Loader`, which brings the version up. A version is `loading`, `ready` or `failed`.
It is ready only after the golden check on its devices. The newest ready version serves. A failed version
keeps its reason for the log, `/v1/models`, the metrics and `kotae models verify`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.errors import InvalidInput, KotaeError, ModelRejected, NotFound, NotReady, StartFailed
from service.repository.loader import Loader, LoadOptions, Version
from service.repository.manifest import (
    MANIFEST_FILE,
    VERSION_FILE,
    ModelManifest,
    VersionPolicy,
    read,
    version_folders,
)

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Model:
    """A model's folder and its versions.

    Attributes:
        manifest: None if `model.yaml` is invalid; `reason` says why.
        versions: The wanted versions, by number.
    """

    name: str
    folder: Path
    manifest: ModelManifest | None = None
    reason: str = "loading"
    versions: dict[int, Version] = field(default_factory=dict)

    @property
    def required(self) -> bool:
        """Whether readiness waits for the model; true also if its manifest is invalid."""
        return self.manifest is None or self.manifest.required

    @property
    def serving(self) -> Version | None:
        """The newest version that is ready."""
        ready = [version for version in list(self.versions.values()) if version.state == "ready"]
        return max(ready, key=lambda version: version.number, default=None)

    @property
    def problem(self) -> str:
        """Why the model does not answer; empty if it does."""
        if self.serving:
            return ""
        failed = [f"version {v.number}: {v.reason}" for v in list(self.versions.values()) if v.reason]
        return "; ".join(failed) or self.reason

    @property
    def has_failure(self) -> bool:
        """Whether the model does not answer, or any version failed."""
        return bool(self.problem) or any(v.state == "failed" for v in list(self.versions.values()))

    def version_numbers(self) -> list[int]:
        """Return the versions on disk, newest first."""
        return [number for number, _ in version_folders(self.folder)]


class Catalog:
    """All models of one folder.

    Args:
        folder: The model repository.
        lanes: Where versions run.
        observer: Passed to the queue of every version.
        options: How versions are loaded.

    Attributes:
        models: All models, by name.
        loaded: Whether `load` has finished.
    """

    def __init__(self, folder: Path, lanes: Lanes, observer: Observer, options: LoadOptions) -> None:
        self.models: dict[str, Model] = {}
        self.loaded = False
        self._folder = folder
        self._lanes = lanes
        self._observer = observer
        self._options = options

    @classmethod
    def of_folder(cls, folder: Path, device: str = "auto") -> Catalog:
        """Return a catalog for the command line, without a server."""
        catalog = cls(folder, Lanes(Observer()), Observer(), LoadOptions(device=device))
        catalog.discover()
        return catalog

    def discover(self) -> None:
        """Find the model folders and read their manifests; loads no graph.

        Raises:
            StartFailed: The folder does not exist.
        """
        if not self._folder.is_dir():
            raise StartFailed(
                f"the models folder {self._folder} does not exist: --models or KOTAE_MODELS names it"
            )
        try:
            folders = sorted(self._folder.iterdir())
        except OSError as error:
            raise StartFailed(f"the models folder {self._folder} cannot be read: {error}") from error
        for folder in folders:
            if not folder.is_dir() or folder.name.startswith((".", "_")) or folder.name == "lost+found":
                continue
            model = Model(folder.name, folder)
            try:
                model.manifest = self._options.overrides.for_model(folder.name).apply_to(
                    _read_manifest(folder)
                )
            except ModelRejected as error:
                model.reason = str(error)
                _log.error("model %s is rejected: %s", folder.name, error)
            self.models[model.name] = model
        if unknown := sorted(self._options.overrides.models.keys() - self.models.keys()):
            _log.warning("the overrides name models that do not exist: %s", ", ".join(unknown))

    def load(self, *, every_version: bool = False) -> None:
        """Load all wanted versions. This is slow; a server calls it in a thread.

        Args:
            every_version: Load all versions on disk and ignore the policy, as `verify` does.
        """
        for model in self.models.values():
            if model.manifest is None:
                continue
            try:
                self._load_model(model, VersionPolicy(policy="all") if every_version else None)
            except OSError as error:  # the folder cannot be listed, or was removed
                model.reason = str(error)
                _log.error("model %s is not ready: %s", model.name, error)
        self.loaded = True

    def find(self, task: str, model: str | None = None, version: str | None = None) -> Version:
        """Return the version that answers a request.

        Raises:
            NotFound: There is no such model, version or task.
            InvalidInput: The request names no model, and the task has no single default.
            NotReady: The version is not ready, or the manifest of a possible default is invalid.
        """
        chosen = self._named(task, model) if model else self._default(task)
        if version is None:
            serving = chosen.serving
            if serving is None:
                raise NotReady(
                    f"model {chosen.name} is not ready: {chosen.problem}",
                    param="model",
                    retry_after_seconds=5,
                )
            return serving
        found = next((v for v in chosen.versions.values() if str(v.number) == version), None)
        if found is None and not self.loaded:
            raise NotReady("models are loading", param="version", retry_after_seconds=1)
        if found is None:
            raise NotFound(f"model {chosen.name} has no version {version} loaded", param="version")
        if found.state != "ready":
            raise NotReady(
                f"version {version} of model {chosen.name} is not ready: {found.reason}",
                param="version",
                retry_after_seconds=5,
            )
        return found

    def missing(self) -> dict[str, str]:
        """Return why required models do not answer, by name; `*` is for a folder without models."""
        if not self.models:
            return {"*": f"the folder {self._folder} has no models"}
        return {m.name: m.problem for m in self.models.values() if m.required and m.problem}

    def versions(self) -> Iterator[Version]:
        """Yield every version of every model."""
        for model in list(self.models.values()):
            yield from list(model.versions.values())

    def close(self, reason: str) -> None:
        """Close the queues: refuse new items and fail waiting ones."""
        for version in self.versions():
            if version.queue is not None:
                version.queue.close(reason)

    def _named(self, task: str, name: str) -> Model:
        model = self.models.get(name)
        if model is None or (model.manifest is not None and model.manifest.task != task):
            names = ", ".join(self._with_task(task)) or "none"
            raise NotFound(f"no model {name!r} answers {task}; there are: {names}", param="model")
        return model

    def _default(self, task: str) -> Model:
        manifests = self._with_task(task)
        defaults = [name for name, manifest in manifests.items() if manifest.default]
        if len(defaults) == 1:
            return self.models[defaults[0]]
        invalid = sorted(model.name for model in self.models.values() if model.manifest is None)
        if invalid and len(manifests) < 2:
            raise NotReady(
                f"name a model with ?model=: the manifest of {invalid[0]} is invalid; it may be the default",
                param="model",
                retry_after_seconds=5,
            )
        if not manifests:
            raise NotFound(f"no model here answers {task}")
        if len(manifests) > 1:
            raise InvalidInput(
                f"name a model with ?model=, {task} has no single default: {', '.join(manifests)}",
                param="model",
            )
        return self.models[next(iter(manifests))]

    def _with_task(self, task: str) -> dict[str, ModelManifest]:
        manifests = {name: model.manifest for name, model in self.models.items()}
        return {name: manifest for name, manifest in manifests.items() if manifest and manifest.task == task}

    def _load_model(self, model: Model, policy: VersionPolicy | None) -> None:
        manifest = model.manifest
        assert manifest is not None, "only a model with a manifest has versions to load"
        policy = policy or manifest.versions
        candidates = self._candidates(model, manifest, policy)
        if not candidates and not model.versions:
            model.reason = f"no version: no folder 1, 2, … of {model.name} has a {VERSION_FILE}"
            _log.error("model %s is not ready: %s", model.name, model.reason)
            return
        wanted = policy.count if policy.policy == "latest" else len(candidates)
        for number, folder in candidates:
            version = model.versions[number] = Version(model.name, number, folder, manifest)
            self._load_version(version)
            wanted -= version.state == "ready"
            if not wanted:
                return

    def _candidates(
        self, model: Model, manifest: ModelManifest, policy: VersionPolicy
    ) -> list[tuple[int, Path]]:
        """Return the versions on disk that the policy names, newest first; add missing ones as failed."""
        found = version_folders(model.folder)
        if policy.policy != "listed":
            return found
        self._add_missing(model, manifest, set(policy.list) - {number for number, _ in found})
        return [(number, folder) for number, folder in found if number in policy.list]

    def _add_missing(self, model: Model, manifest: ModelManifest, numbers: set[int]) -> None:
        for number in sorted(numbers):
            reason = f"listed in {MANIFEST_FILE}, but there is no folder {number} with a {VERSION_FILE}"
            _log.error("version %s of %s failed: %s", number, model.name, reason)
            model.versions[number] = Version(
                model.name,
                number,
                model.folder / str(number),
                manifest,
                state="failed",
                reason=reason,
                failed_check="manifest",
            )

    def _load_version(self, version: Version) -> None:
        started = time.monotonic()
        loader = Loader(version, self._lanes, self._observer, self._options)
        try:
            loader.load()
        except Exception as error:  # no failure of one version may stop the others
            version.state, version.failed_check = "failed", loader.check
            version.reason = str(error) or type(error).__name__
            unexpected = None if isinstance(error, KotaeError) else error
            _log.error(
                "version %s of %s failed: %s",
                version.number,
                version.model,
                version.reason,
                exc_info=unexpected,
            )
            return
        version.load_seconds = time.monotonic() - started
        version.state, version.reason = "ready", ""
        _log.info(
            "version %s of %s is ready on %s",
            version.number,
            version.model,
            ", ".join(map(str, version.devices)),
            extra={
                "provider": version.provider,
                "load_seconds": round(version.load_seconds, 3),
                "golden_check_error": version.golden_check_error,
            },
        )


def _read_manifest(folder: Path) -> ModelManifest:
    manifest = read(folder / MANIFEST_FILE, ModelManifest)
    if manifest.name != folder.name:
        raise ModelRejected(f"{MANIFEST_FILE} says name: {manifest.name}, the folder is {folder.name}")
    return manifest

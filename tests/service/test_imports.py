"""Who may import whom: every import statement of `service` and `training` is held against one table."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_MODELS = {"repository.manifest", "tasks", "engine", "errors"}

# Part of `service` -> the parts and modules of `service` that it may import, itself left out.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "tasks": {"repository.manifest", "errors"},
    "engine": {"errors"},
    "repository": {"tasks", "engine", "errors"},
    "backend": {*_MODELS, "repository", "settings", "telemetry.logs"},
    "lifecycle": {"backend", "engine", "repository", "settings"},
    "inference": {"repository", "tasks", "engine.queue", "errors"},
    "http": {
        "inference",
        "lifecycle",
        "repository",
        "tasks",
        "errors",
        "settings",
        "engine.queue",
        "telemetry",
    },
    "tools": {*_MODELS, "repository"},
    "telemetry": {"errors", "settings", "engine.observer"},
    "multiprocess": {
        *_MODELS,
        "repository",
        "settings",
        "http.server",
        "telemetry.logs",
    },
}
WIRING = {
    "service.app",
    "service.__main__",
    "service.multiprocess.engine_process",
    "service.multiprocess.http_process",
}  # these may import everything in service
TRAINING = {
    "repository.manifest",
    "repository.golden",
    "errors",
    "tasks",
    "engine.devices",
    "engine.runtime.session",
    "engine.runtime.cpus",
}

# Library -> the modules (or packages) of `service` that alone may import it.
CONFINED: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("service.engine.runtime.session", "service.engine.cuda"),
    "cuda": ("service.engine.cuda.device_memory",),
    "fastapi": ("service.http", "service.app"),
    "starlette": ("service.http", "service.app"),
    "uvicorn": ("service.http.server",),
    "prometheus_client": ("service.telemetry", "service.app"),
    "pynvml": ("service.telemetry.devices",),
    "soundfile": ("service.tasks.audio.audio_file",),
    "soxr": ("service.tasks.audio.waveform",),
    "flashlight": ("service.tasks.audio.beam_search",),
    "torch": (),
    "lightning": (),
    "training": (),
}


@dataclass(frozen=True)
class Import:
    """One imported name, the module it stands in and the line."""

    importer: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer} (line {self.line}) imports {self.target}"


def modules(package: str) -> dict[str, Path]:
    """Find the modules of a package by dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SERVICE = modules("service")
ALL_MODULES = SERVICE | modules("training")


def imports_of(module: str) -> Iterator[Import]:
    """Go through all imports of a module, late ones included; `from a import b` of a module b is a.b."""
    path = ALL_MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, name.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*above, *([source] if source else [])])
            for name in node.names:
                inner = f"{source}.{name.name}"
                yield Import(module, inner if inner in ALL_MODULES else source, node.lineno)


def is_within(target: str, parts: Iterable[str]) -> bool:
    return any(target == part or target.startswith(part + ".") for part in parts)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _is_allowed(found: Import) -> bool:
    if found.importer.startswith("training"):
        return is_within(found.target, {f"service.{part}" for part in TRAINING})
    if found.importer in WIRING:
        return True
    part = part_of(found.importer)
    return is_within(found.target, {f"service.{name}" for name in {part, *ALLOWED.get(part, ())}})


@pytest.mark.parametrize("module", ALL_MODULES)
def test_a_module_imports_only_the_parts_that_it_may(module: str) -> None:
    wrong = [
        str(found)
        for found in imports_of(module)
        if is_within(found.target, ["service"]) and not _is_allowed(found)
    ]
    assert not wrong, "; ".join(wrong)


def test_every_part_of_the_service_stands_in_the_table() -> None:
    parts = {part_of(module) for module in SERVICE if module not in {"service", *WIRING}}
    assert parts <= ALLOWED.keys(), f"say in ALLOWED what {sorted(parts - ALLOWED.keys())} may import"


def test_the_table_names_nothing_that_is_gone() -> None:
    named = {name for names in (*ALLOWED.values(), TRAINING, ALLOWED) for name in names}
    assert {name for name in named if f"service.{name}" not in SERVICE} == set()


@pytest.mark.parametrize("library", CONFINED)
def test_a_confined_library_is_imported_only_where_it_belongs(library: str) -> None:
    wrong = [
        str(found)
        for module in SERVICE
        for found in imports_of(module)
        if is_within(found.target, [library]) and not is_within(module, CONFINED[library])
    ]
    assert not wrong, "; ".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: set(_runtime_imports(module)) for module in SERVICE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def _runtime_imports(module: str) -> Iterator[str]:
    """Go through the modules of `service` that a module imports; late ones too, but none for types alone."""
    tree = ast.parse(SERVICE[module].read_text(encoding="utf-8"))
    for_types = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for found in imports_of(module):
        if found.target in SERVICE and found.target != module and found.line not in for_types:
            yield found.target


def test_importing_the_application_loads_nothing_of_training() -> None:
    program = (
        "import sys, service.app, service.http.server.drain\n"
        "heavy = {'torch', 'lightning', 'training', 'sklearn', 'matplotlib', 'onnx'}\n"
        "print(*sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == ""


def test_importing_the_application_configures_nothing() -> None:
    program = (
        "import logging, threading, service.app\n"
        "from prometheus_client import REGISTRY\n"
        "names = {metric.name for metric in REGISTRY.collect()}\n"
        "assert not logging.getLogger().handlers, 'logging is configured'\n"
        "assert not [name for name in names if name.startswith('kotae')], 'metrics are global'\n"
        "assert threading.active_count() == 1, 'a thread runs'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_no_class_name_stands_for_two_classes() -> None:
    places: dict[str, list[str]] = {}
    for module, path in SERVICE.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}

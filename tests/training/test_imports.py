"""Modalities depend on what they share, never on each other."""

import ast
from pathlib import Path

import pytest

TRAINING = Path(__file__).parents[2] / "training"
SHARED = {"core", "data", "networks", "recipes", "errors"}
MODALITIES = ("detection", "images", "speech", "text")
REGISTRY = TRAINING / "core" / "registry.py"


def imported_packages(package: Path) -> dict[Path, set[str]]:
    """The parts of `training` that each module of a package imports, by the module's path."""
    found = {}
    for path in package.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[path] = {name.split(".")[1] for name in names if name.startswith("training.")}
    return found


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_modality_imports_no_other_one(modality: str) -> None:
    for path, packages in imported_packages(TRAINING / modality).items():
        assert packages <= SHARED | {modality}, path


@pytest.mark.parametrize("package", sorted(SHARED - {"errors"}))
def test_shared_code_imports_no_modality_but_in_the_registry(package: str) -> None:
    for path, packages in imported_packages(TRAINING / package).items():
        assert path == REGISTRY or packages <= SHARED, path


def test_the_registry_imports_every_modality() -> None:
    assert imported_packages(TRAINING / "core")[REGISTRY] >= set(MODALITIES)


def test_networks_recipes_and_data_do_not_import_core() -> None:
    for package in ("data", "networks", "recipes"):
        for path, packages in imported_packages(TRAINING / package).items():
            assert "core" not in packages, path

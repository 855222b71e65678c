"""One command's surroundings: the recipe, where runs go, where to talk, and what was typed."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console

from service.repository.manifest import Provenance, version_folders
from training.core.trainer import Run
from training.recipes.recipe import Recipe

_LIBRARIES = (
    *("torch", "lightning", "onnx", "onnxscript", "onnxruntime"),
    *("numpy", "pillow", "scikit-learn", "tokenizers"),
)
RecipeKind = TypeVar("RecipeKind", bound=Recipe)


@dataclass(frozen=True, slots=True)
class Job(Generic[RecipeKind]):
    """One command's surroundings.

    Attributes:
        recipe: What to do.
        runs: Folder of run folders; this job's is the one with the model's name.
        console: Where to say how it goes.
        command: The command as it was typed, for provenance.
    """

    recipe: RecipeKind
    runs: Path
    console: Console
    command: str

    @property
    def run(self) -> Run:
        """The job's run folder."""
        return Run(self.runs / self.recipe.name)

    def provenance(self, data: str, seed: int) -> Provenance:
        """Say where a version comes from.

        Args:
            data: What the data is.
            seed: Of the training.
        """
        return Provenance(
            command=self.command,
            commit=current_commit(),
            data=data,
            seed=seed,
            library_versions={name: library_version(name) for name in _LIBRARIES},
        )


def newest_version(model: Path) -> Path | None:
    """Find a model's newest version, if it has one."""
    versions = version_folders(model) if model.is_dir() else []
    return versions[0][1] if versions else None


def current_commit() -> str:
    """Name the commit of this code, with a `+` if the training code was changed since."""
    here = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain values for other programs to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""The context of one command: the recipe, the run folder, the console and the typed command."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from service.repository.manifest import Provenance, version_folders
from training.recipes.recipe import Recipe

_LIBRARIES = (
    *("torch", "lightning", "onnx", "onnxscript", "onnxruntime"),
    *("numpy", "pillow", "scikit-learn", "tokenizers"),
)
RecipeKind = TypeVar("RecipeKind", bound=Recipe)


@dataclass(frozen=True, slots=True)
class Run:
    """The folder where a training run keeps its files."""

    folder: Path

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss."""
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint of the last complete epoch, from which a run is resumed."""
        return self.folder / "checkpoints" / "last.ckpt"


@dataclass(frozen=True, slots=True)
class Job(Generic[RecipeKind]):
    """The context of one command.

    Attributes:
        recipe: The recipe.
        runs: Parent of the run folders; this job's run folder has the model's name.
        console: Where progress is printed.
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

    def say(self, text: str) -> None:
        """Print a text as it is."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def provenance(self, data: str, seed: int) -> Provenance:
        """Return where a version comes from.

        Args:
            data: Description of the data.
            seed: Seed of the training.
        """
        return Provenance(
            command=self.command,
            commit=current_commit(),
            data=data,
            seed=seed,
            library_versions={name: library_version(name) for name in _LIBRARIES},
        )


def newest_version(model: Path) -> Path | None:
    """Return the folder of a model's newest version; None if it has no version."""
    versions = version_folders(model) if model.is_dir() else []
    return versions[0][1] if versions else None


def current_commit() -> str:
    """Return the commit of this code, with a `+` if the training code has uncommitted changes."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write values and NumPy arrays as a JSON file."""

    def plain(value: NDArray[Any] | np.generic) -> Any:
        return value.tolist()

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=plain) + "\n", encoding="utf-8")

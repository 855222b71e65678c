"""The `kotae-train` command: build, fit, evaluate, export.

Only reads the command line; torch and the rest are imported when a command runs.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.errors import KotaeError

if TYPE_CHECKING:
    from training.core.steps import Steps
    from training.core.version_folder import Destination

app = typer.Typer(
    help="Train a model, measure it and export it for `kotae serve`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Fetch or make training data.", no_args_is_help=True)
app.add_typer(data_app, name="data")

RecipeName = Annotated[str, typer.Argument(help="A recipe's name (digits, pictures) or a YAML file's path.")]
Data = Annotated[Path | None, typer.Option("--data", help="Train on this folder or file instead.")]
Name = Annotated[str | None, typer.Option("--name", help="The model's name; the recipe's if not given.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of weights, order and augmentation.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder for checkpoints, metrics and pictures.")]
Models = Annotated[Path, typer.Option("--models", help="The model repository.")]
Version = Annotated[
    int | None,
    typer.Option("--version", min=1, help="Number of the version; the next free one if not given."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the version if it exists.")]
Start = Annotated[
    Path | None,
    typer.Option(
        "--from", help="Start from these weights: a model folder, a version's folder or a checkpoint."
    ),
]
Checkpoint = Annotated[Path | None, typer.Option("--checkpoint", help="The run's best one if not given.")]


Precision = Literal["int8", "fp16"]


@app.command()
def build(
    recipe: RecipeName,
    *,
    data: Data = None,
    name: Name = None,
    seed: Seed = None,
    start: Start = None,
    runs: Runs = Path("runs"),
    models: Models = Path("models"),
    version: Version = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit, export and evaluate: from data to a model folder that can be served."""
    _steps(recipe, data, name, seed, runs, start=start).build(_destination(models, version, overwrite))


@app.command()
def fit(
    recipe: RecipeName,
    *,
    data: Data = None,
    name: Name = None,
    seed: Seed = None,
    start: Start = None,
    runs: Runs = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue after the last complete epoch.")] = False,
) -> None:
    """Train a network; the best checkpoint stays in the run folder."""
    _steps(recipe, data, name, seed, runs, start=start).fit(resume=resume)


@app.command()
def evaluate(
    recipe: RecipeName,
    *,
    data: Data = None,
    name: Name = None,
    seed: Seed = None,
    runs: Runs = Path("runs"),
    checkpoint: Checkpoint = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Model folder whose newest version is evaluated.")
    ] = None,
    blocks: Annotated[
        int, typer.Option("--blocks", help="Instead, train and evaluate once per contiguous block.")
    ] = 0,
    recordings: Annotated[
        Path | None,
        typer.Option(
            "--recordings",
            help="Instead, evaluate a model for sounds on all files of a CSV table with the columns audio "
            "and text (transcript or label); also by speaker and kind if it has these columns.",
        ),
    ] = None,
) -> None:
    """Evaluate a model's newest version, or a checkpoint, on the test part."""
    steps = _steps(recipe, data, name, seed, runs, recordings=recordings)
    steps.evaluate(checkpoint, model, blocks)


@app.command()
def export(
    recipe: RecipeName,
    *,
    data: Data = None,
    name: Name = None,
    seed: Seed = None,
    runs: Runs = Path("runs"),
    models: Models = Path("models"),
    checkpoint: Checkpoint = None,
    version: Version = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a checkpoint as a version of a model folder, checked against PyTorch."""
    _steps(recipe, data, name, seed, runs).export(checkpoint, _destination(models, version, overwrite))


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="The model's folder, such as models/digits.")],
    *,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Recipe with the data; the one of the model's name if not given."),
    ] = None,
    data: Data = None,
    runs: Runs = Path("runs"),
    precision: Annotated[Precision, typer.Option("--precision", help="Precision of the variant.")] = "int8",
    most_loss: Annotated[
        float, typer.Option("--most-loss", min=0, help="Points that a metric may lose.")
    ] = 1.0,
    version: Version = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a version with a smaller variant, unless it loses too much accuracy.

    int8 is for CPUs, fp16 for GPUs. Without a GPU, fp16 is measured on the CPU, where it is slow.
    """
    from rich.console import Console

    from training.core.quantize import QuantizationRequest, quantize_model

    steps = _steps(recipe or model.resolve().name, data, None, None, runs)
    destination = _destination(model.resolve().parent, version, overwrite)
    request = QuantizationRequest(model, destination, most_loss, _command_line(), precision)
    quantize_model(request, steps.quantization_data(), Console())


@data_app.command()
def wallpapers(
    folder: Annotated[Path, typer.Argument(help="Where to save them; recipes use runs/wallpapers.")],
) -> None:
    """Fetch photographs from Debian's wallpaper packages, as backgrounds of composed scenes."""
    from training.detection.scenes.wallpapers import fetch_wallpapers

    sys.stdout.write(f"{len(fetch_wallpapers(folder))} pictures in {folder}\n")


@data_app.command("package-descriptions")
def package_descriptions(
    folder: Annotated[Path, typer.Argument(help="Where to write languages.jsonl and descriptions.jsonl.")],
    *,
    languages: Annotated[
        str | None,
        typer.Option("--languages", help="ISO 639-1 codes, separated by commas; all if not given."),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Most texts of one language.")] = 6000,
) -> None:
    """Fetch Debian's package descriptions in English and their translations.

    Reads the Packages and Translation lists of this machine's apt sources with apt, without privileges and
    without a change of apt's state. Needs Debian or a derivative, and the network.
    """
    from training.data.debian_descriptions import LANGUAGES, write_package_descriptions

    codes = languages.split(",") if languages else list(dict.fromkeys(LANGUAGES.values()))
    counts = write_package_descriptions(folder, codes, most)
    typer.echo("\n".join(f"{name}\t{count}" for name, count in counts.items()))


@data_app.command("recorded-speech")
def recorded_speech(
    folder: Annotated[Path, typer.Argument(help="Where to write the sounds, words.csv and sentences.csv.")],
) -> None:
    """Fetch recordings of people from Debian's packages, to evaluate speech models.

    Use them with `kotae-train evaluate keywords --recordings FOLDER/words.csv` and `evaluate spoken-commands
    --recordings FOLDER/sentences.csv`. The sounds have the packages' licences.
    """
    from training.speech.debian_recordings import write_recorded_speech

    counts = write_recorded_speech(folder)
    typer.echo("\n".join(f"{folder / name}\t{count}" for name, count in counts.items()))


@data_app.command()
def speech(recipe: RecipeName, *, runs: Runs = Path("runs")) -> None:
    """Synthesize the training speech of a recipe in advance, with espeak-ng, flite and festival.

    An interrupted run continues where it stopped. Training synthesizes what is missing.
    """
    from training.recipes.load import load_recipe
    from training.speech.sources import synthesize_training_set

    typer.echo(synthesize_training_set(load_recipe(recipe), runs))


def _steps(
    recipe: str,
    data: Path | None,
    name: str | None,
    seed: int | None,
    runs: Path,
    *,
    start: Path | None = None,
    recordings: Path | None = None,
) -> Steps[Any, Any, Any, Any]:
    from rich.console import Console

    from training.core.registry import steps_for
    from training.recipes.load import load_recipe

    # After the imports, which set their own levels. Lightning logs about devices, and torch's exporter about
    # torchvision, which is neither installed nor needed.
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    chosen = load_recipe(recipe).changed(data=data, name=name, seed=seed, start=start)
    if recordings:
        chosen = chosen.measured_on(recordings)
    return steps_for(chosen, runs, Console(), _command_line())


def _command_line() -> str:
    return " ".join(["kotae-train", *sys.argv[1:]])


def _destination(models: Path, version: int | None, overwrite: bool) -> Destination:
    from training.core.version_folder import Destination

    return Destination(models, version, overwrite)


def main() -> None:
    """Run the command line; an error that the user can fix is printed in one line, without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        app()
    except KotaeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "service", "training"):
            raise
        sys.stderr.write(f"error: {package} is missing: training needs pip install 'kotae[cpu,train]'\n")
        sys.exit(1)


if __name__ == "__main__":
    main()

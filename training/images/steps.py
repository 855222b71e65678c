"""The commands behind `kotae-train` for pictures: fit, evaluate, export, and all three as build.

Each opens what it needs, calls the module that does the work and says what came of it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks.classification import read_labels
from training.core.card import CardText, write_card
from training.core.job import Job, newest_version, write_json
from training.core.quantize import CALIBRATION_ITEMS, Subject
from training.core.version_folder import Origin, Place, picture_figures, write_version
from training.data.split import Parts, contiguous_parts, stratified_parts
from training.errors import DataRejected
from training.images.fit import fit, load_checkpoint
from training.images.golden import choose_golden_files
from training.images.learner import Learner
from training.images.metrics import (
    Answers,
    Evaluation,
    HeldOut,
    answers_of_checkpoint,
    answers_of_version,
    evaluate,
    held_out,
)
from training.images.plots import draw_confusion, draw_sheet, picture_tables, print_evaluation
from training.images.source import PictureSource, open_source
from training.recipes.recipe import PictureRecipe

_LIMITS = """\
## Limits

Every picture is answered with one of these classes, also one that shows none of them."""
_CARD = CardText(
    "Measured on files that the training did not see, from raw file to answer through ONNX Runtime.",
    behind=_LIMITS,
)
CALIBRATION_SEED = 3_000_017  # redrawings that int8 scales are found on


@dataclass(frozen=True, slots=True)
class Data:
    """The recipe's pictures and what each is for."""

    source: PictureSource
    parts: Parts


def open_data(recipe: PictureRecipe) -> Data:
    """Load the recipe's pictures and divide them."""
    source = open_source(recipe)
    return Data(source, stratified_parts(source.labels, recipe.split))


def run_fit(job: Job[PictureRecipe], data: Data, *, resume: bool = False) -> Path:
    """Train; returns the best checkpoint."""
    parts = data.parts
    job.console.print(
        f"{job.recipe.name}: {data.source.description}\n{parts.description}",
        highlight=False,
    )
    best = fit(job.recipe, data.source, parts, job.run, job.console, resume=resume)
    job.console.print(f"best checkpoint: {best}", highlight=False)
    return best


def run_export(
    job: Job[PictureRecipe], data: Data, learner: Learner, pictures: HeldOut, place: Place
) -> Path:
    """Export a trained network as a version; returns the version's folder."""
    origin = Origin(
        provenance=job.provenance(data.source.description, learner.recipe.seed),
        held_out=pictures,
        golden=choose_golden_files(learner, data.source, data.parts.validation),
        split=f"stratified, {learner.recipe.split.test:.0%} for testing, seed {learner.recipe.split.seed}",
    )
    folder, evaluation = write_version(learner, origin, place)
    write_card(folder, learner.recipe, picture_tables(evaluation), _CARD)
    job.console.print(f"exported and checked: {folder}", highlight=False)
    return folder


def run_evaluate(
    job: Job[PictureRecipe], classes: tuple[str, ...], pictures: HeldOut, answers: dict[str, Answers]
) -> dict[str, Evaluation]:
    """Measure answers, the exported graph's last; write figures and pictures, of the last ones."""
    evaluations = {name: evaluate(given, pictures, classes) for name, given in answers.items()}
    folder = job.run.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, evaluation in evaluations.items():
        print_evaluation(evaluation, f"{job.recipe.name}: {name}", job.console)
    last = list(evaluations)[-1]
    plain, redrawn = evaluations[last].plain, evaluations[last].redrawn
    draw_confusion(plain, classes, f"{plain.items} held-out pictures", folder / "confusion.png")
    if redrawn:
        title = f"{redrawn.items} redrawn held-out pictures"
        draw_confusion(redrawn, classes, title, folder / "confusion-redrawn.png")
        draw_sheet(answers[last], pictures, folder / "redrawn.png")
    write_json(
        folder / "evaluation.json",
        {name: dataclasses.asdict(evaluation) for name, evaluation in evaluations.items()},
    )
    job.console.print(f"figures and pictures: {folder}", highlight=False)
    return evaluations


def run_build(job: Job[PictureRecipe], place: Place) -> Path:
    """Fit, export and evaluate; returns the version's folder."""
    place.resolve(job.recipe.name)  # a taken place is told before the training, not after it
    data = open_data(job.recipe)
    learner = load_checkpoint(run_fit(job, data))
    pictures = held_out(data.source, data.parts.test)
    version = run_export(job, data, learner, pictures, place)
    answers = {
        "checkpoint": answers_of_checkpoint(learner, pictures),
        "exported graph": answers_of_version(version, pictures),
    }
    run_evaluate(job, learner.classes, pictures, answers)
    return version


def run_blocks(job: Job[PictureRecipe], blocks: int) -> list[Evaluation]:
    """Train anew for each contiguous block and measure the checkpoint on it."""
    source = open_source(job.recipe)
    evaluations = []
    for number, parts in enumerate(contiguous_parts(source.labels, job.recipe.split, blocks), start=1):
        part = dataclasses.replace(job, runs=job.run.folder / "blocks" / str(number))
        learner = load_checkpoint(run_fit(part, Data(source, parts)))
        pictures = held_out(source, parts.test)
        evaluations.append(evaluate(answers_of_checkpoint(learner, pictures), pictures, learner.classes))
        print_evaluation(evaluations[-1], f"{job.recipe.name}: block {number} of {blocks}", job.console)
    plain = [evaluation.plain.accuracy for evaluation in evaluations]
    summary: dict[str, Any] = {"accuracy": plain, "mean_accuracy": float(np.mean(plain))}
    redrawn = [evaluation.redrawn.accuracy for evaluation in evaluations if evaluation.redrawn]
    if redrawn:
        summary |= {"redrawn_accuracy": redrawn, "mean_redrawn_accuracy": float(np.mean(redrawn))}
    write_json(job.run.folder / "blocks.json", summary)
    job.console.print(
        f"mean accuracy over {blocks} contiguous blocks: {summary['mean_accuracy']:.2%}"
        + (f", redrawn {summary['mean_redrawn_accuracy']:.2%}" if redrawn else ""),
        highlight=False,
    )
    return evaluations


def picture_subject(data: Data) -> Subject:
    """Say what a smaller variant is made with and judged by."""
    pictures = held_out(data.source, data.parts.test)
    chosen = data.parts.validation[:CALIBRATION_ITEMS]
    typical = held_out(data.source, chosen, CALIBRATION_SEED)
    items = typical.files
    if typical.redrawn:
        redrawn = typical.redrawn[:: data.source.redrawings]  # one of each
        items = [file for pair in zip(items, redrawn, strict=True) for file in pair]

    def measure(folder: Path, facts: VersionFacts) -> dict[str, float]:
        answers = answers_of_version(folder, pictures, facts)
        return picture_figures(evaluate(answers, pictures, data.source.classes))

    guarded = dict.fromkeys(["accuracy", *(["redrawn_accuracy"] if pictures.redrawn else [])], True)
    return Subject(items, measure, guarded)


@dataclass(frozen=True, slots=True)
class PictureSteps:
    """What the command line can ask of a recipe for pictures; see `training.core.registry`."""

    job: Job[PictureRecipe]

    def fit(self, *, resume: bool) -> None:
        """Train."""
        run_fit(self.job, open_data(self.job.recipe), resume=resume)

    def build(self, place: Place) -> None:
        """Train, export and evaluate."""
        run_build(self.job, place)

    def export(self, checkpoint: Path | None, place: Place) -> None:
        """Export a checkpoint."""
        data = open_data(self.job.recipe)
        learner = load_checkpoint(checkpoint or self.job.run.best)
        run_export(self.job, data, learner, held_out(data.source, data.parts.test), place)

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        return picture_subject(open_data(self.job.recipe))

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Measure a checkpoint if one is given, else the newest version; or train anew for each block.

        Raises:
            DataRejected: There is nothing to measure, or it has other labels than the data.
        """
        if blocks:
            run_blocks(self.job, blocks)
            return
        data = open_data(self.job.recipe)
        pictures = held_out(data.source, data.parts.test)
        if checkpoint:
            learner = load_checkpoint(checkpoint)
            _check_labels(checkpoint, learner.classes, data.source)
            answers = answers_of_checkpoint(learner, pictures)
            name = str(checkpoint)
        else:
            version = newest_version(model or Path("models") / self.job.recipe.name)
            if version is None:
                raise DataRejected(f"there is no version of {self.job.recipe.name}: export one first")
            facts = read(version / VERSION_FILE, VersionFacts)
            _check_labels(version, read_labels(version, facts), data.source)
            answers = answers_of_version(version, pictures, facts)
            name = str(version)
        run_evaluate(self.job, data.source.classes, pictures, {name: answers})


def _check_labels(path: Path, labels: tuple[str, ...], source: PictureSource) -> None:
    if labels != source.classes:
        raise DataRejected(f"{path} has other labels than {source.description}")

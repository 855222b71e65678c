"""Figures to look at: tables on the terminal, the confusion picture, the sheet of redrawn pictures."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from training.core.tables import markdown_table
from training.images.metrics import Answers, Evaluation, Figures, HeldOut

_TILE = 56  # pixels a side of a picture on the sheet
_COLUMNS = 18
_EXAMPLES = 72
_MISSES = 54


def print_evaluation(evaluation: Evaluation, title: str, console: Console) -> None:
    """Print the figures, the per-class table and the slices."""
    table = Table(title=title)
    for column in ("held-out part", "pictures", "accuracy", "macro F1", "calibration error"):
        table.add_column(column, justify="left" if column == "held-out part" else "right")
    _add_row(table, "as the data has it", evaluation.plain)
    if evaluation.redrawn:
        _add_row(table, "redrawn", evaluation.redrawn)
    console.print(table)
    console.print(_class_table(evaluation.plain))
    if evaluation.slices:
        slices = Table(title="redrawn pictures by look")
        slices.add_column("look")
        slices.add_column("pictures", justify="right")
        slices.add_column("accuracy", justify="right")
        for name, (accuracy, items) in evaluation.slices.items():
            slices.add_row(name, str(items), f"{accuracy:.2%}")
        console.print(slices)


def _add_row(table: Table, name: str, figures: Figures) -> None:
    table.add_row(
        name,
        str(figures.items),
        f"{figures.accuracy:.2%}",
        f"{figures.macro_f1:.4f}",
        f"{figures.calibration_error:.4f}",
    )


def _class_table(figures: Figures) -> Table:
    table = Table(title="classes, as the data has them")
    for column in ("class", "pictures", "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in figures.per_class:
        table.add_row(row.label, str(row.items), f"{row.precision:.4f}", f"{row.recall:.4f}", f"{row.f1:.4f}")
    return table


def picture_tables(evaluation: Evaluation) -> str:
    """Write the figures of the pictures as they are as Markdown, for the card."""
    figures = evaluation.plain
    whole = (
        f"{figures.items} held-out pictures: accuracy {figures.accuracy:.2%}, "
        f"macro F1 {figures.macro_f1:.4f}, calibration error {figures.calibration_error:.4f}."
    )
    rows = [
        (row.label, row.items, f"{row.precision:.4f}", f"{row.recall:.4f}", f"{row.f1:.4f}")
        for row in figures.per_class
    ]
    return f"{whole}\n\n{markdown_table(('class', 'pictures', 'precision', 'recall', 'F1'), rows)}"


def draw_confusion(figures: Figures, classes: tuple[str, ...], title: str, path: Path) -> None:
    """Draw how often each class was answered for each true class, as a PNG."""
    counts = np.array(figures.confusion)
    side = min(12.0, 2.2 + 0.36 * len(classes))
    figure = Figure(figsize=(side, side), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="answered", ylabel="true", title=title)
    figure.savefig(path)


def draw_sheet(answers: Answers, pictures: HeldOut, path: Path) -> None:
    """Draw examples of redrawn pictures, and below them, framed in red, those answered wrongly.

    At most 54 misses are shown, the surest first.
    """
    answered = answers.redrawn.argmax(axis=1)
    wrong = np.flatnonzero(answered != pictures.redrawn_labels)
    wrong = wrong[np.argsort(-answers.redrawn[wrong].max(axis=1))][:_MISSES]
    right = np.flatnonzero(answered == pictures.redrawn_labels)
    examples = right[np.linspace(0, len(right) - 1, min(_EXAMPLES, len(right))).astype(int)]
    tiles = [_tile(pictures.redrawn[i], "#d0d0d0") for i in examples]
    tiles += [Image.new("RGB", (_TILE, _TILE), "white")] * (-len(tiles) % _COLUMNS)
    tiles += [_tile(pictures.redrawn[i], "#d62728") for i in wrong]
    rows = -(-len(tiles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * _TILE), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % _COLUMNS * _TILE, number // _COLUMNS * _TILE))
    sheet.save(path, optimize=True)


def _tile(file: bytes, frame: str) -> Image.Image:
    with Image.open(BytesIO(file)) as picture:
        inner = ImageOps.pad(picture.convert("RGB"), (_TILE - 8, _TILE - 8), color="white")
    return ImageOps.expand(ImageOps.expand(inner, 2, frame), 2, "white")

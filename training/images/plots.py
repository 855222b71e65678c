"""Plots of an evaluation: the confusion matrix, and a sheet of redrawn images with the errors."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from training.images.metrics import Metrics
from training.images.predict import HeldOut, Predictions

_TILE = 56  # pixels per side of an image on the sheet
_COLUMNS = 18
_EXAMPLES = 72
_ERRORS = 54


def draw_confusion(metrics: Metrics, classes: tuple[str, ...], title: str, path: Path) -> None:
    """Plot the confusion matrix as a PNG file."""
    counts = np.array(metrics.confusion)
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


def draw_sheet(predictions: Predictions, images: HeldOut, path: Path) -> None:
    """Draw examples of redrawn images, and below them, in red frames, wrongly classified ones.

    At most 54 errors are shown, those with the highest score first.
    """
    answered = predictions.redrawn.argmax(axis=1)
    wrong = np.flatnonzero(answered != images.redrawn_labels)
    wrong = wrong[np.argsort(-predictions.redrawn[wrong].max(axis=1))][:_ERRORS]
    right = np.flatnonzero(answered == images.redrawn_labels)
    examples = right[np.linspace(0, len(right) - 1, min(_EXAMPLES, len(right))).astype(int)]
    tiles = [_tile(images.redrawn[i], "#d0d0d0") for i in examples]
    tiles += [Image.new("RGB", (_TILE, _TILE), "white")] * (-len(tiles) % _COLUMNS)
    tiles += [_tile(images.redrawn[i], "#d62728") for i in wrong]
    rows = -(-len(tiles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * _TILE), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % _COLUMNS * _TILE, number // _COLUMNS * _TILE))
    sheet.save(path, optimize=True)


def _tile(file: bytes, frame: str) -> Image.Image:
    with Image.open(BytesIO(file)) as image:
        inner = ImageOps.pad(image.convert("RGB"), (_TILE - 8, _TILE - 8), color="white")
    return ImageOps.expand(ImageOps.expand(inner, 2, frame), 2, "white")

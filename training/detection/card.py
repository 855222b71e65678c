"""What the card of a new detector says beside its figures."""

from __future__ import annotations

from training.card import CardText

MISSES_FILE = "misses.jpg"
_MEASURED = """\
Measured on held-out images, from raw file to answer with ONNX Runtime, by faster-coco-eval."""
_MISSES = f"""\
The worst misses. Green frames show the true objects, red frames the answers. The text under each image
gives the true label, the answered label and its score:

![Worst misses]({MISSES_FILE})"""
DETECTOR_CARD = CardText(_MEASURED, behind=_MISSES)

"""What the card of a new detector says beside its figures."""

from __future__ import annotations

from training.core.card import CardText

MISSES_FILE = "misses.jpg"
_MEASURED = """\
Measured on pictures that the training did not see, from raw file to answer through ONNX Runtime, by
faster-coco-eval."""
_MISSES = f"""\
The worst misses, what is there in green and what was answered in red; under each what is there, what was
answered and how surely:

![Worst misses]({MISSES_FILE})"""
DETECTOR_CARD = CardText(_MEASURED, behind=_MISSES)

"""The card of a detector: what is known for a new one; in one that is there, only the figures are renewed."""

from __future__ import annotations

from pathlib import Path

from service.manifest import VERSION_FILE, VersionFacts, read
from training.card import CARD_FILE
from training.recipes.recipe import Recipe
from training.text.card import BEGIN, END, write_text_card

MISSES_FILE = "misses.jpg"


def write_detector_card(version: Path, recipe: Recipe, tables: str) -> None:
    """Write the figures into the card beside a version; see `write_text_card`."""
    path = version.parent / CARD_FILE
    if not path.exists():
        path.write_text(_new_card(version, recipe), encoding="utf-8")
    write_text_card(version, recipe, tables)


def _new_card(version: Path, recipe: Recipe) -> str:
    facts = read(version / VERSION_FILE, VersionFacts)
    return f"""# {recipe.name}

{recipe.manifest.description}

## Data

{facts.provenance.data}. Split: {facts.metrics["split"]}.

## Training

```
{facts.provenance.command}
```

Seed {facts.provenance.seed}, code at commit {facts.provenance.commit}.

## Held-out figures

Measured on pictures that the training did not see, from raw file to answer through ONNX Runtime, by
faster-coco-eval.

{BEGIN}
{END}

The worst misses, what is there in green and what was answered in red; under each what is there, what was
answered and how surely:

![Worst misses]({MISSES_FILE})
"""

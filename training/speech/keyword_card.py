"""The card of a classifier of short sounds: what is known for a new one; else only figures and curves."""

from __future__ import annotations

import shutil
from pathlib import Path

from service.manifest import VERSION_FILE, VersionFacts, read
from training.card import CARD_FILE
from training.recipes.recipe import Recipe
from training.speech.card import CURVES_FILE
from training.text.card import BEGIN, END, write_text_card


def write_keyword_card(version: Path, recipe: Recipe, tables: str, curves: Path) -> None:
    """Write the figures into the card beside a version, and put the curves of its training there.

    Args:
        version: The version's folder.
        recipe: What was done.
        tables: The figures, as `kotae-train evaluate` prints them.
        curves: Picture of the training's curves; there may be none.
    """
    path = version.parent / CARD_FILE
    if curves.is_file():
        shutil.copyfile(curves, version.parent / CURVES_FILE)
    if not path.exists():
        path.write_text(_new_card(version, recipe), encoding="utf-8")
    write_text_card(version, recipe, tables)


def _new_card(version: Path, recipe: Recipe) -> str:
    facts = read(version / VERSION_FILE, VersionFacts)
    drawn = (version.parent / CURVES_FILE).exists()
    curves = f"\n![Curves of the training]({CURVES_FILE})\n" if drawn else ""
    return f"""# {recipe.name}

{recipe.manifest.description}

## Data

{facts.provenance.data}. Split: {facts.metrics["split"]}.

## Training

```
{facts.provenance.command}
```

Seed {facts.provenance.seed}, code at commit {facts.provenance.commit}.
{curves}
## Held-out figures

Measured on sounds that the training did not hear, from raw file to answer through ONNX Runtime.

{BEGIN}
{END}

## Limits

Every sound is answered with one of the labels, also one that is none of them.
"""

"""The card of a text model. Its owner writes the prose; the figures between two marks are ours.

A model without a card gets one with what is known; in one that is there, only the figures are renewed.
"""

from __future__ import annotations

from pathlib import Path

from service.manifest import VERSION_FILE, VersionFacts, read
from training.card import CARD_FILE
from training.recipes.recipe import Recipe

BEGIN = "<!-- figures: written by kotae-train -->"
END = "<!-- end of figures -->"


def write_text_card(version: Path, recipe: Recipe, tables: str) -> None:
    """Write the figures into the card beside a version.

    Args:
        version: The version's folder.
        recipe: What was done.
        tables: The figures, as `kotae-train evaluate` prints them.
    """
    path = version.parent / CARD_FILE
    card = path.read_text(encoding="utf-8") if path.exists() else _new_card(version, recipe)
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        path.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


def figures_of_card(card: str) -> str:
    """Give the figures that stand in a card."""
    return card.partition(BEGIN)[2].partition(END)[0].strip()


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

Measured on texts that the training did not see, from raw text to answer through ONNX Runtime.

{BEGIN}
{END}
"""

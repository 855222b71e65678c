"""The model card: what the model was made from, how, how good it is, and what it cannot do.

A model without a card gets one with what is known. After that the prose is its owner's; only what stands
between two marks, the figures, is ours and renewed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from training.recipes.recipe import Recipe

CARD_FILE = "README.md"
_BEGIN = "<!-- figures: written by kotae-train -->"
_END = "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class CardText:
    """What a new card says that differs from one kind of model to another.

    Attributes:
        measured: How the figures were measured.
        training: Markdown behind how it was trained, such as a picture.
        behind: Markdown behind the figures.
    """

    measured: str
    training: str = ""
    behind: str = ""


def write_card(version: Path, recipe: Recipe, tables: str, text: CardText) -> None:
    """Write the figures into the card beside a version; one without the two marks is left as it is.

    Args:
        version: The exported version's folder; the card goes beside it.
        recipe: What was done.
        tables: The figures, as `kotae-train evaluate` prints them.
        text: For a new card.
    """
    path = version.parent / CARD_FILE
    card = path.read_text(encoding="utf-8") if path.exists() else _new_card(version, recipe, text)
    before, begin, rest = card.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and end:
        path.write_text(f"{before}{begin}\n\n{tables}\n\n{end}{after}", encoding="utf-8")


def figures_of_card(card: str) -> str:
    """Give the figures that stand in a card."""
    return card.partition(_BEGIN)[2].partition(_END)[0].strip()


def _new_card(version: Path, recipe: Recipe, text: CardText) -> str:
    facts = read(version / VERSION_FILE, VersionFacts)
    training = f"\n{text.training}\n" if text.training else ""
    behind = f"\n{text.behind}\n" if text.behind else ""
    return f"""# {recipe.name}

{recipe.manifest.description}

## Data

{facts.provenance.data}. Split: {facts.metrics["split"]}.

## Training

```
{facts.provenance.command}
```

Seed {facts.provenance.seed}, code at commit {facts.provenance.commit}.
{training}
## Held-out figures

{text.measured}

{_BEGIN}
{_END}
{behind}"""

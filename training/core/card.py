"""The model card: the data, the training, the metrics and the limits of a model.

A model without a card gets one. Later exports replace only the text between the two marks, the metrics; the
rest belongs to the model's owner.
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
    """The text of a new card that depends on the kind of model.

    Attributes:
        measured: How the metrics were measured.
        training: Markdown after the section on the training, such as a picture.
        after: Markdown after the metrics.
    """

    measured: str
    training: str = ""
    after: str = ""


def write_card(version: Path, recipe: Recipe, tables: str, text: CardText) -> None:
    """Write metrics into the model card; a card without the two marks is not changed.

    Args:
        version: The exported version's folder; the card is in its parent.
        recipe: The recipe of the training.
        tables: The metrics as Markdown.
        text: Text of a new card.
    """
    path = version.parent / CARD_FILE
    card = path.read_text(encoding="utf-8") if path.exists() else _new_card(version, recipe, text)
    before, begin, rest = card.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and end:
        path.write_text(f"{before}{begin}\n\n{tables}\n\n{end}{after}", encoding="utf-8")


def metrics_of_card(card: str) -> str:
    """Return the metrics in a card's text."""
    return card.partition(_BEGIN)[2].partition(_END)[0].strip()


def _new_card(version: Path, recipe: Recipe, text: CardText) -> str:
    facts = read(version / VERSION_FILE, VersionFacts)
    training = f"\n{text.training}\n" if text.training else ""
    after = f"\n{text.after}\n" if text.after else ""
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
{after}"""

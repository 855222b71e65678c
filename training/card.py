"""The model card: what the model was made from, how, how good it is, and what it cannot do.

Written once, for a model that has none; after that it is its owner's text.
"""

from __future__ import annotations

from pathlib import Path

from service.manifest import VERSION_FILE, VersionFacts, read
from training.evaluate import Evaluation
from training.recipes.recipe import PictureRecipe

CARD_FILE = "README.md"


def write_card(version: Path, recipe: PictureRecipe, evaluation: Evaluation) -> None:
    """Write the card of a model that has none yet.

    Args:
        version: The exported version's folder; the card goes beside it.
        recipe: What was done.
        evaluation: The exported graph's figures on the held-out part.
    """
    path = version.parent / CARD_FILE
    if path.exists():
        return
    facts = read(version / VERSION_FILE, VersionFacts)
    rows = "\n".join(
        f"| {row.label} | {row.items} | {row.precision:.4f} | {row.recall:.4f} | {row.f1:.4f} |"
        for row in evaluation.plain.per_class
    )
    path.write_text(
        f"""# {recipe.name}

{recipe.manifest.description}

## Data

{facts.provenance.data}. Split: {facts.metrics["split"]}.

## Training

```
{facts.provenance.command}
```

Seed {facts.provenance.seed}, code at commit {facts.provenance.commit}.

## Held-out figures

Version {version.name}, measured on {evaluation.plain.items} files that the training did not see, from raw
file to answer through ONNX Runtime: accuracy {evaluation.plain.accuracy:.2%}, macro F1
{evaluation.plain.macro_f1:.4f}, calibration error {evaluation.plain.calibration_error:.4f}.

| class | pictures | precision | recall | F1 |
|---|---:|---:|---:|---:|
{rows}

## Limits

Every picture is answered with one of these {len(evaluation.plain.per_class)} classes, also one that shows
none of them.
""",
        encoding="utf-8",
    )

"""Metrics of a text encoder as Markdown tables, for the terminal and the model card."""

from __future__ import annotations

from training.core.tables import markdown_table
from training.text.embedding.metrics import Recall, RetrievalEvaluation

_WORST = 3
_FEWEST = 30  # pairs of a slice that is called the worst


def pair_tables(evaluation: RetrievalEvaluation) -> str:
    """Return all metrics."""
    items = evaluation.by_dimensions[evaluation.dimensions].items
    rows = [
        (f"this model, {_numbers(size, evaluation.dimensions)}", *_cells(found))
        for size, found in evaluation.by_dimensions.items()
    ]
    rows += [(name, *_cells(found)) for name, found in evaluation.baselines.items()]
    header = (f"{items} held-out queries among {items} documents", "recall@1", "recall@10")
    slices = [(name, found.items, *_cells(found)) for name, found in evaluation.slices.items()]
    large = [(name, found) for name, found in evaluation.slices.items() if found.items >= _FEWEST]
    worst = sorted(large, key=lambda pair: pair[1].at_1)[:_WORST]
    named = ", ".join(f"{name} ({found.at_1:.3f})" for name, found in worst)
    sliced = ("slice", "queries", "recall@1", "recall@10")
    parts = [markdown_table(header, rows), markdown_table(sliced, slices)]
    if named:
        parts.append(f"Worst slices by recall@1, among those with at least {_FEWEST} queries: {named}.")
    return "\n\n".join(parts)


def _numbers(size: int, all_of_them: int) -> str:
    return f"all {size} numbers" if size == all_of_them else f"the first {size} numbers"


def _cells(found: Recall) -> tuple[str, str]:
    return f"{found.at_1:.3f}", f"{found.at_10:.3f}"

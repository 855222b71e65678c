"""Metrics of the text classifier as Markdown tables, for the terminal and the model card."""

from __future__ import annotations

from service.tasks.classification import UNKNOWN
from training.core.tables import markdown_table
from training.text.classification.metrics import LabelEvaluation, Tally

_WORST = 3


def label_tables(evaluation: LabelEvaluation) -> str:
    """Return all metrics."""
    parts = [_overview(evaluation)]
    if evaluation.strangers:
        parts.append(_strangers(evaluation))
    parts += [_by_label(evaluation), _by_length(evaluation), _worst(evaluation)]
    if evaluation.beside:
        parts.append(_beside(evaluation))
    return "\n\n".join(parts)


def _overview(evaluation: LabelEvaluation) -> str:
    rows = [("whole texts", evaluation.whole)]
    rows += [(f"windows of {length} characters", t) for length, t in evaluation.windows.items()]
    return (
        markdown_table(
            (
                "held out",
                "texts",
                "answered",
                "accuracy of the answers",
                "accuracy",
                "accuracy of the best label",
            ),
            [
                (
                    name,
                    t.items,
                    f"{t.coverage:.2%}",
                    f"{t.answered_accuracy:.2%}",
                    f"{t.accuracy:.2%}",
                    f"{t.best_right / max(1, t.items):.2%}",
                )
                for name, t in rows
            ],
        )
        + f"\n\nMacro F1 on whole texts: {evaluation.macro_f1:.4f}."
    )


def _strangers(evaluation: LabelEvaluation) -> str:
    return markdown_table(
        ("held out, no label fits", "texts", f"answered `{UNKNOWN}`"),
        [(name, items, f"{hits / items:.2%}") for name, (items, hits) in evaluation.strangers.items()],
    )


def _by_label(evaluation: LabelEvaluation) -> str:
    if not evaluation.measured:
        return markdown_table(
            ("label", "texts", "accuracy"),
            [(name, t.items, f"{t.accuracy:.2%}") for name, (t, _) in evaluation.by_label.items()],
        )
    return markdown_table(
        (
            "label",
            "texts",
            "accuracy",
            f"windows of {evaluation.measured}",
            "answered",
            "accuracy of the answers",
        ),
        [
            (
                name,
                whole.items,
                f"{whole.accuracy:.2%}",
                cut.items,
                f"{cut.coverage:.2%}",
                f"{cut.answered_accuracy:.2%}",
            )
            for name, (whole, cut) in evaluation.by_label.items()
        ],
    )


def _by_length(evaluation: LabelEvaluation) -> str:
    return markdown_table(
        ("whole texts of", "texts", "answered", "accuracy"),
        [
            (name, t.items, f"{t.coverage:.2%}", f"{t.accuracy:.2%}")
            for name, t in evaluation.by_length.items()
        ],
    )


def _worst(evaluation: LabelEvaluation) -> str:
    labels = {name: (cut if evaluation.measured else whole)
              for name, (whole, cut) in evaluation.by_label.items()}  # fmt: skip
    worst = sorted(labels.items(), key=lambda pair: pair[1].accuracy)[:_WORST]
    length, shortest = min(evaluation.by_length.items(), key=lambda pair: pair[1].accuracy)
    what = f"windows of {evaluation.measured} characters" if evaluation.measured else "texts"
    said = ", ".join(f"{name} ({_share(t)})" for name, t in worst)
    text = f"Worst slices by accuracy: {what} in {said}; texts of {length} ({_share(shortest)})."
    if evaluation.confused:
        pairs = ", ".join(f"{right} → {given} ({count})" for right, given, count in evaluation.confused)
        text += f" Most frequent errors in {what} (true label → answer): {pairs}."
    return text


def _share(counts: Tally) -> str:
    return f"{counts.accuracy:.2%}"


def _beside(evaluation: LabelEvaluation) -> str:
    rows = [
        (text.replace("|", "\\|"), right, given.label, given.best, f"{given.score:.3f}")
        for text, right, given in evaluation.beside
    ]
    known = [row for row in rows if row[1] != UNKNOWN]
    others = [row for row in rows if row[1] == UNKNOWN]
    right = sum(row[1] == row[2] for row in known)
    refused = sum(row[2] == UNKNOWN for row in others)
    summary = f"Texts outside the data set: {right} of {len(known)} with one of the labels are right"
    if others:
        summary += f"; {refused} of {len(others)} without a fitting label are answered `{UNKNOWN}`"
    header = ("text", "true label", "answer", "best label", "probability of the best label")
    return f"{summary}.\n\n{markdown_table(header, rows)}"

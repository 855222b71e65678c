"""The choice of golden files: small and diverse ones, with names that show the label."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

File = TypeVar("File")


def small_files(files: Sequence[File], content: Callable[[File], bytes], limit: int) -> Sequence[File]:
    """Return the files that have at most `limit` bytes, or all if none is so small.

    Golden files are stored with the model, in a repository.
    """
    return [file for file in files if len(content(file)) <= limit] or files


def golden_name(number: int, text: str, suffix: str, default: str) -> str:
    """Return the name of a golden file: number, label or text, suffix.

    Args:
        number: Number of the file.
        text: Label or text; all characters but letters and digits become hyphens.
        suffix: Suffix with its dot.
        default: Replaces a text without letters and digits.
    """
    return f"{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '-', text).strip('-') or default}{suffix}"


def choose_diverse(
    ranked: Sequence[File], kind: Callable[[File], Hashable], variety: Callable[[File], Hashable]
) -> list[File]:
    """Choose one file of each kind.

    Args:
        ranked: Files, the best first.
        kind: Returns the kind of a file.
        variety: Returns what should differ among the chosen files as far as possible.
    """
    chosen: dict[Hashable, File] = {}
    seen: set[Hashable] = set()
    for new_variety_only in (True, False):
        for file in ranked:
            if kind(file) not in chosen and not (new_variety_only and variety(file) in seen):
                chosen[kind(file)] = file
                seen.add(variety(file))
    return list(chosen.values())

"""A table of sound files with transcripts or labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from training.data.split import Parts, grouped_parts, stratified_parts
from training.data.table import read_columns, read_rows
from training.errors import DataRejected
from training.recipes.recipe import Split
from training.recipes.speech_recipe import KeywordsRecipe, SpeechRecipe, SpeechTableData
from training.speech.recordings import Recording, Recordings, transcript_of

_LEAST = 3  # sound files per label
SPEAKER = "speaker"  # group column if the recipe names none


class SpeechTable(Recordings):
    """The recordings of a table; each group is in one part only.

    For a recipe for keywords, texts are labels and not changed; for others, they are transcripts.

    Args:
        recipe: The table, the split and the graph's input.
        cache: Folder for decoded samples; None keeps them in memory.

    Raises:
        DataRejected: The table, a line or a sound file is wrong; the text names it.
    """

    def __init__(self, recipe: SpeechRecipe | KeywordsRecipe, cache: Path | None = None) -> None:
        assert isinstance(recipe.data, SpeechTableData), "a recipe without a table of speech"
        data, split = recipe.data, recipe.split
        labelled = isinstance(recipe, KeywordsRecipe)
        group = data.group or (SPEAKER if SPEAKER in read_columns(data.path) else None)
        recordings = read_table(data, group, labelled=labelled)
        if data.whole:
            nothing = np.zeros(0, dtype=np.int64)
            parts = Parts(nothing, nothing, np.arange(len(recordings)))
        elif labelled and group is None:
            parts = _parts_by_label(recordings, split)
        else:
            parts = _parts_by_group(recordings, split, labelled=labelled)
        kept = f"by {group}" if group else "by file"
        about = (
            f"{data.path.name} of {len(recordings)} sound files",
            f"{kept}, {split.test:.0%} for testing, {split.validation:.0%} for validation, seed {split.seed}",
        )
        super().__init__(recordings, parts, recipe.input, cache, about)


def read_table(data: SpeechTableData, group: str | None, *, labelled: bool) -> list[Recording]:
    """Read a table's rows.

    Args:
        data: The table.
        group: Column of the groups that a split keeps together; None makes each row its own group.
        labelled: Whether texts are labels instead of transcripts.

    Raises:
        DataRejected: The table is missing or a row is wrong; the text names file and row.
    """
    rows = read_rows(data.path, (data.audio, data.text), group)
    columns = [name for name in dict.fromkeys([group, SPEAKER, "kind"]) if name in read_columns(data.path)]
    values = [
        [value for _, _, value in read_rows(data.path, (data.audio, data.text), name)] for name in columns
    ]
    recordings = []
    for number, (file, text, together) in enumerate(rows):
        where, path = f"{data.path}, row {number + 1}", data.path.parent / file
        if not path.is_file():
            raise DataRejected(f"{where}: there is no sound file {path}")
        said = text.strip() if labelled else transcript_of(text, where)
        traits = tuple(f"{name}: {column[number]}" for name, column in zip(columns, values, strict=True))
        recordings.append(Recording(path, said, together, traits))
    return recordings


def _parts_by_group(recordings: list[Recording], split: Split, *, labelled: bool) -> Parts:
    parts = grouped_parts([one.group for one in recordings], split)
    trained = {recordings[number].text for number in parts.train}
    for number in (*parts.validation, *parts.test) if labelled else ():
        if recordings[number].text not in trained:
            raise DataRejected(
                f"label {recordings[number].text} is held out only: no group that is learnt from has it"
            )
    return parts


def _parts_by_label(recordings: list[Recording], split: Split) -> Parts:
    for label, files in Counter(one.text for one in recordings).items():
        if files < _LEAST:
            raise DataRejected(
                f"label {label} has too few sound files for a training, a validation and a test part: {files}"
            )
    numbers = np.unique([one.text for one in recordings], return_inverse=True)[1]
    return stratified_parts(numbers.astype(np.int64), split)

"""A folder in LibriSpeech's format: `*.trans.txt` beside sound files whose names begin with the speaker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.data.split import grouped_parts
from training.errors import DataRejected
from training.recipes.speech_recipe import SpeechFolderData, SpeechRecipe
from training.speech.recordings import Recording, Recordings, transcript_of

_ENDINGS = (".flac", ".wav", ".ogg", ".opus", ".mp3")


class SpeechFolder(Recordings):
    """The recordings of a folder; each speaker is in one part only.

    Args:
        recipe: The folder, the split and the graph's input.
        cache: Folder for decoded samples; None keeps them in memory.

    Raises:
        DataRejected: There is no transcript, or a line or a sound file is wrong; the text names it.
    """

    def __init__(self, recipe: SpeechRecipe, cache: Path | None = None) -> None:
        assert isinstance(recipe.data, SpeechFolderData), "a recipe without a folder of speech"
        path = recipe.data.path
        recordings = read_folder(path)
        speakers = [one.group for one in recordings]
        parts = grouped_parts(speakers, recipe.split)
        about = (
            f"folder {path.name} of {len(recordings)} utterances by {len(set(speakers))} speakers",
            f"by speaker, {recipe.split.test:.0%} for testing, {recipe.split.validation:.0%} for validation, "
            f"seed {recipe.split.seed}",
        )
        super().__init__(recordings, parts, recipe.input, cache, about)


def read_folder(folder: Path) -> list[Recording]:
    """Read all transcripts in a folder and its sub-folders.

    Raises:
        DataRejected: There are none, or one is wrong; the text names file and line.
    """
    if not folder.is_dir():
        raise DataRejected(f"there is no folder {folder}")
    lists = sorted(folder.rglob("*.trans.txt"))
    if not lists:
        raise DataRejected(f"{folder} has no transcripts: no file in it is named *.trans.txt")
    recordings = [recording for path in lists for recording in _read_list(path)]
    if not recordings:
        raise DataRejected(f"the transcripts in {folder} are empty")
    return recordings


def _read_list(path: Path) -> Iterator[Recording]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataRejected(f"{path} is not UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        name, _, text = line.strip().partition(" ")
        if name:
            where = f"{path}, line {number}"
            spoken = transcript_of(text, where)
            speaker = name.partition("-")[0]
            yield Recording(_sound_of(path.parent, name, where), spoken, speaker, (f"speaker: {speaker}",))


def _sound_of(folder: Path, name: str, where: str) -> Path:
    for ending in _ENDINGS:
        if (path := folder / f"{name}{ending}").is_file():
            return path
    raise DataRejected(f"{where}: there is no sound file {name} with one of {', '.join(_ENDINGS)} beside it")

"""Recipes that learn from speech: recognition, and words spoken one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from service.repository.manifest import AudioInput
from training.recipes.recipe import Recipe, Strict


class SpokenVoices(Strict):
    """Which synthetic voices speak what is held out; every other one speaks what is learnt from.

    A voice is named `engine:voice`; of eSpeak NG's, `espeak:accent+variant`, whose variant then speaks
    nowhere else, whatever the accent.

    Attributes:
        validation: Voices to stop by.
        test: Voices of the held-out part.
    """

    validation: Annotated[tuple[str, ...], Field(min_length=1)]
    test: Annotated[tuple[str, ...], Field(min_length=1)]


class SpokenCommandsData(Strict):
    """A small spoken language, spoken by speech synthesisers.

    Attributes:
        train: Utterances to learn from; they are spoken once and kept in the runs folder.
        validation: Utterances to stop by.
        test: Utterances held out; each is measured clean, noisy and over the telephone.
        voices: Who speaks what is held out.
    """

    kind: Literal["spoken-commands"] = "spoken-commands"
    train: Annotated[int, Field(ge=1)] = 30_000
    validation: Annotated[int, Field(ge=1)] = 400
    test: Annotated[int, Field(ge=1)] = 1000
    voices: SpokenVoices


class SpokenWordsData(Strict):
    """Single words, silence and other sounds, spoken and made as for `SpokenCommandsData`."""

    kind: Literal["spoken-words"] = "spoken-words"
    train: Annotated[int, Field(ge=1)] = 30_000
    validation: Annotated[int, Field(ge=1)] = 600
    test: Annotated[int, Field(ge=1)] = 2000
    voices: SpokenVoices


class SpeechFolderData(Strict):
    """A folder as LibriSpeech has it: `*.trans.txt` beside the sound files, a folder a speaker.

    Speakers, the numbers that file names begin with, are kept apart when parts are drawn.

    Attributes:
        path: The folder; relative to where the command runs.
    """

    kind: Literal["speech-folder"] = "speech-folder"
    path: Path


class SpeechTableData(Strict):
    """A CSV file with a header that names sound files.

    Attributes:
        path: The file; paths in it are relative to its folder.
        audio: Column of the sound file's path.
        text: Column of what is said, or of the label.
        group: Column of what a split keeps together; None takes `speaker` where there is one, else splits by
            file.
        whole: Whether all of it is measured on, and nothing learnt from.
    """

    kind: Literal["speech-table"] = "speech-table"
    path: Path
    audio: str = "audio"
    text: str = "text"
    group: str | None = None
    whole: bool = False


class EncoderSize(Strict):
    """Size of the speech encoder.

    Attributes:
        mels: Bands of the log-mel front end.
        hop_seconds: Between its frames.
        width: Numbers a frame inside of the encoder, which has a quarter of the frames.
        blocks: Convolution and attention blocks.
        heads: Of the attention.
        kernel: Frames that a block's convolution sees.
        expansion: Of the feed-forward layers.
        dropout: Share dropped while training.
    """

    mels: Annotated[int, Field(ge=8, le=128)] = 80
    hop_seconds: Annotated[float, Field(gt=0.001, lt=0.1)] = 0.008
    width: Annotated[int, Field(ge=8)] = 144
    blocks: Annotated[int, Field(ge=1)] = 6
    heads: Annotated[int, Field(ge=1)] = 4
    kernel: Annotated[int, Field(ge=3)] = 15
    expansion: Annotated[int, Field(ge=1)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class WordSearch(Strict):
    """How word-list decoding is set up when a model is exported.

    Attributes:
        order: Of the n-gram model that is counted over the transcripts that are learnt from; 0 makes none.
            KenLM, which searches with it, takes no order of 1.
        beam_size: Hypotheses that are followed.
    """

    order: Literal[0, 2, 3, 4, 5] = 3
    beam_size: Annotated[int, Field(ge=1, le=4096)] = 32


class SpeechRecipe(Recipe):
    """A recipe for speech recognition: connectionist temporal classification over letters.

    Attributes:
        batch_seconds: Seconds of padded sound in a batch; utterances of like length share one.
        parts: A pass over what is learnt from is divided into so many epochs, after each of which is
            validated and kept what there is.
        processes: How many learn together, sharing every batch: on a CPU, two with a thread each are nearly
            twice as fast as one with two threads.
        search: Decoding with a word list; None exports a model that only spells.
    """

    data: Annotated[SpokenCommandsData | SpeechFolderData | SpeechTableData, Field(discriminator="kind")]
    input: AudioInput
    network: EncoderSize = EncoderSize()
    batch_seconds: Annotated[float, Field(gt=0)] = 120.0
    parts: Annotated[int, Field(ge=1)] = 1
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    bfloat16: bool = True
    search: WordSearch | None = WordSearch()

    def data_at(self, path: Path) -> dict[str, object]:
        """Learn from a folder as LibriSpeech has it, or from a table with the same columns."""
        if path.suffix in (".csv", ".jsonl"):
            return _table_at(self.data, path)
        return {"kind": "speech-folder", "path": str(path)}

    def measured_on(self, recordings: Path) -> Self:
        """Measure on a table with the same columns."""
        return self.model_copy(update={"data": _whole_table(self.data, recordings)})


class KeywordsRecipe(Recipe):
    """A recipe for telling sounds apart: one label for a short sound.

    Attributes:
        widths: Channels of the convolutions over bands and time, then the width of those over time alone.
        processes: How many learn together, sharing every batch.
    """

    data: Annotated[SpokenWordsData | SpeechTableData, Field(discriminator="kind")]
    input: AudioInput
    mels: Annotated[int, Field(ge=8, le=128)] = 64
    hop_seconds: Annotated[float, Field(gt=0.001, lt=0.1)] = 0.01
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2)] = (32, 64, 96, 160)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    bfloat16: bool = True

    def data_at(self, path: Path) -> dict[str, object]:
        """Learn from a table with the same columns."""
        return _table_at(self.data, path)

    def measured_on(self, recordings: Path) -> Self:
        """Measure on a table with the same columns."""
        return self.model_copy(update={"data": _whole_table(self.data, recordings)})


def _whole_table(data: Strict, path: Path) -> SpeechTableData:
    return SpeechTableData.model_validate({**_table_at(data, path), "group": None, "whole": True})


def _table_at(data: Strict, path: Path) -> dict[str, object]:
    kept = data.model_dump(mode="json") if isinstance(data, SpeechTableData) else {}
    return {**kept, "kind": "speech-table", "path": str(path)}

"""Recipes for sounds: speech recognition and keyword classification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from service.repository.manifest import AudioInput
from training.recipes.recipe import Recipe, Strict


class SpokenVoices(Strict):
    """The synthetic voices of validation and test part; all others speak the training part.

    A voice is named `engine:voice`; eSpeak NG's are named `espeak:accent+variant`, and the variant then
    speaks in no other part, with any accent.

    Attributes:
        validation: Voices of the validation part.
        test: Voices of the test part.
    """

    validation: Annotated[tuple[str, ...], Field(min_length=1)]
    test: Annotated[tuple[str, ...], Field(min_length=1)]


class SpokenCommandsData(Strict):
    """A small language, spoken by speech synthesizers.

    Attributes:
        train: Training utterances; they are synthesized once and kept in the runs folder.
        validation: Validation utterances.
        test: Test utterances; each is measured clean, noisy and over the telephone.
        voices: Voices of validation and test part.
    """

    kind: Literal["spoken-commands"] = "spoken-commands"
    train: Annotated[int, Field(ge=1)] = 30_000
    validation: Annotated[int, Field(ge=1)] = 400
    test: Annotated[int, Field(ge=1)] = 1000
    voices: SpokenVoices


class SpokenWordsData(Strict):
    """Single words, silence and other sounds, synthesized as for `SpokenCommandsData`."""

    kind: Literal["spoken-words"] = "spoken-words"
    train: Annotated[int, Field(ge=1)] = 30_000
    validation: Annotated[int, Field(ge=1)] = 600
    test: Annotated[int, Field(ge=1)] = 2000
    voices: SpokenVoices


class SpeechFolderData(Strict):
    """A folder in LibriSpeech's format: `*.trans.txt` beside the sound files, a folder per speaker.

    Each speaker, the number that file names begin with, is in one part only.

    Attributes:
        path: The folder; relative to the current folder.
    """

    kind: Literal["speech-folder"] = "speech-folder"
    path: Path


class SpeechTableData(Strict):
    """A CSV file with a header that names sound files.

    Attributes:
        path: The file; paths in it are relative to its folder.
        audio: Column of the sound file's path.
        text: Column of the transcript or label.
        group: Column of the groups that a split keeps together; None is `speaker` if there is such a column,
            else the split is by file.
        whole: Whether all of it is the test part.
    """

    kind: Literal["speech-table"] = "speech-table"
    path: Path
    audio: str = "audio"
    text: str = "text"
    group: str | None = None
    whole: bool = False


class SpeechEncoderSize(Strict):
    """Size of the speech encoder.

    Attributes:
        mels: Bands of the log-mel features.
        hop_seconds: Time between feature frames.
        width: Width of the encoder, which has a quarter of the frames.
        blocks: Conformer blocks.
        heads: Attention heads.
        kernel: Kernel size of a block's convolution, in frames.
        expansion: Expansion factor of the feed-forward layers.
        dropout: Share dropped in training.
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
    """Settings of decoding with a word list in an exported model.

    Attributes:
        order: Order of the n-gram language model, counted over the training transcripts; 0 makes none. KenLM,
            which searches with it, does not support order 1.
        beam_size: Number of hypotheses.
    """

    order: Literal[0, 2, 3, 4, 5] = 3
    beam_size: Annotated[int, Field(ge=1, le=4096)] = 32


class SpeechRecipe(Recipe):
    """A recipe for speech recognition: connectionist temporal classification over letters.

    Attributes:
        batch_seconds: Seconds of padded sound in a batch of utterances of similar length.
        parts: Number of epochs that a pass over the training part is divided into; each ends with validation
            and a checkpoint.
        processes: Number of training processes that share each batch: on a CPU, two with one thread each are
            nearly twice as fast as one with two threads.
        search: Decoding with a word list; None exports a model with greedy decoding only.
    """

    data: Annotated[SpokenCommandsData | SpeechFolderData | SpeechTableData, Field(discriminator="kind")]
    input: AudioInput
    network: SpeechEncoderSize = SpeechEncoderSize()
    batch_seconds: Annotated[float, Field(gt=0)] = 120.0
    parts: Annotated[int, Field(ge=1)] = 1
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    bfloat16: bool = True
    search: WordSearch | None = WordSearch()

    def data_at(self, path: Path) -> dict[str, object]:
        """Return data of a folder in LibriSpeech's format, or of a table with the same columns."""
        if path.suffix in (".csv", ".jsonl"):
            return _table_at(self.data, path)
        return {"kind": "speech-folder", "path": str(path)}

    def measured_on(self, recordings: Path) -> Self:
        """Return the recipe for an evaluation on a table with the same columns."""
        return self.model_copy(update={"data": _whole_table(self.data, recordings)})


class KeywordsRecipe(Recipe):
    """A recipe for keyword classification: one label for a short sound.

    Attributes:
        widths: Channels of the convolutions over bands and time, then the width of those over time alone.
        processes: Number of training processes that share each batch.
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
        """Return data of a table with the same columns."""
        return _table_at(self.data, path)

    def measured_on(self, recordings: Path) -> Self:
        """Return the recipe for an evaluation on a table with the same columns."""
        return self.model_copy(update={"data": _whole_table(self.data, recordings)})


def _whole_table(data: Strict, path: Path) -> SpeechTableData:
    return SpeechTableData.model_validate({**_table_at(data, path), "group": None, "whole": True})


def _table_at(data: Strict, path: Path) -> dict[str, object]:
    kept = data.model_dump(mode="json") if isinstance(data, SpeechTableData) else {}
    return {**kept, "kind": "speech-table", "path": str(path)}

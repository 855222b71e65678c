"""Beam search: the most probable words from a word list, with an optional language model.

flashlight-text does the search over a prefix tree of the words; KenLM, which is part of its wheel, scores
them. Array shapes: `F` frames, `V` tokens; token 0 is the blank.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ModelRejected
from service.repository.manifest import Transcription
from service.tasks.audio.ctc_decoding import BLANK, SEPARATOR, read_lines

_STEP_FRAMES = 16  # the library holds the GIL for one step; short steps let other threads run
_MAX_FRAMES = 1000  # most frames of one search, to bound memory
_IMPOSSIBLE = -1e4  # log probability of tokens that the closing frame excludes


class BeamSearch:
    """The beam search of one version. Thread-safe.

    Args:
        folder: The version's folder.
        transcription: Names the word list and the language model, and the width of the search.
        tokens: V names.

    Raises:
        ModelRejected: The library or a file is missing, or a word has a letter that is no token.
    """

    def __init__(self, folder: Path, transcription: Transcription, tokens: Sequence[str]) -> None:
        try:
            from flashlight.lib.text import decoder  # noqa: PLC0415 - only versions with a list need it
        except ImportError as error:
            raise ModelRejected(f"a word list needs the package flashlight-text: {error}") from error
        assert transcription.words is not None, "beam search needs a word list"
        self._library = decoder
        words = read_lines(folder / transcription.words)
        spellings = _spellings(words, tokens, transcription.words)
        self._separator = tokens.index(SEPARATOR)
        self._model = self._language_model(folder, transcription, words)
        self._tree = decoder.Trie(len(tokens), self._separator)
        start = self._model.start(False)
        for number, spelling in enumerate(spellings):
            score = self._model.score(start, number)[1]
            self._tree.insert([*spelling, self._separator], number, score)
        self._tree.smear(decoder.SmearingMode.MAX)
        self._options = self._make_options(transcription, len(tokens))

    def with_weights(self, transcription: Transcription) -> BeamSearch:
        """Return a search with other weights; no file is read again.

        Args:
            transcription: The new weights, with the same word list and language model.
        """
        other = copy.copy(self)
        other._options = self._make_options(transcription, self._options.beam_size_token)
        return other

    def _make_options(self, transcription: Transcription, tokens: int) -> Any:
        return self._library.LexiconDecoderOptions(
            beam_size=transcription.beam_size,
            beam_size_token=tokens,
            beam_threshold=transcription.beam_threshold,
            lm_weight=transcription.language_model_weight,
            word_score=transcription.word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=True,
            criterion_type=self._library.CriterionType.CTC,
        )

    def best_path(self, log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the path of the most probable words: one token per frame.

        Args:
            log_probs: f32 [F, V].

        Returns:
            i64 [F].
        """
        paths = [self._search(log_probs[first:last]) for first, last in _spans(log_probs, self._separator)]
        return np.concatenate([*paths, np.zeros(0, dtype=np.int64)])

    def _search(self, log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
        """Search one span; an additional frame that can only be a separator ends its last word."""
        closing = np.full((1, log_probs.shape[1]), _IMPOSSIBLE, dtype=np.float32)
        closing[0, self._separator] = 0.0
        emissions = np.ascontiguousarray(np.concatenate([log_probs, closing]), dtype=np.float32)
        search = self._library.LexiconDecoder(
            self._options, self._tree, self._model, self._separator, BLANK, -1, [], False
        )
        search.decode_begin()
        for first in range(0, len(emissions), _STEP_FRAMES):
            step = emissions[first : first + _STEP_FRAMES]
            search.decode_step(step.ctypes.data, *step.shape)
        search.decode_end()
        found = search.get_all_final_hypothesis()
        if not found:
            return np.zeros(len(log_probs), dtype=np.int64)
        # The first entry is the state before the first frame; the last two belong to the additional frame.
        return np.array(found[0].tokens[1 : len(log_probs) + 1], dtype=np.int64)

    def _language_model(self, folder: Path, transcription: Transcription, words: Sequence[str]) -> Any:
        if transcription.language_model is None:
            return self._library.ZeroLM()
        from flashlight.lib.text.decoder.kenlm import KenLM  # noqa: PLC0415
        from flashlight.lib.text.dictionary import Dictionary  # noqa: PLC0415

        dictionary = Dictionary()
        for word in words:
            dictionary.add_entry(word)
        try:
            return KenLM(str(folder / transcription.language_model), dictionary)
        except (RuntimeError, ValueError) as error:
            raise ModelRejected(f"{transcription.language_model} does not load: {error}") from error


def _spellings(words: Sequence[str], tokens: Sequence[str], name: str) -> list[list[int]]:
    numbers = {token: number for number, token in enumerate(tokens) if number != BLANK and token != SEPARATOR}
    spellings = []
    for word in words:
        if unknown := [letter for letter in word if letter not in numbers]:
            raise ModelRejected(f"{name}: {word!r} has the letter {unknown[0]!r}, which is no token")
        spellings.append([numbers[letter] for letter in word])
    return spellings


def _spans(log_probs: NDArray[np.float32], separator: int) -> list[tuple[int, int]]:
    """Return the spans that are searched one by one, as pairs of first frame and end.

    A long output is cut at a separator, or where the blank or the separator is most probable.
    """
    empty = np.maximum(log_probs[:, BLANK], log_probs[:, separator])
    separators = log_probs[:, separator] > math.log(0.5)
    spans = []
    start = 0
    while len(log_probs) - start > _MAX_FRAMES:
        low, high = start + _MAX_FRAMES // 2, start + _MAX_FRAMES
        between = np.flatnonzero(separators[low:high])
        offset = int(between[-1]) if len(between) else int(np.argmax(empty[low:high]))
        spans.append((start, low + offset))
        start = low + offset
    return [*spans, (start, len(log_probs))]

"""Texts -> token ids, with a version's `tokenizer.json`.

A text is never shortened silently: a long text is an error, or it is cut and marked with `truncate=true`.

Array shapes: `T` tokens of one text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import filetype
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from service.errors import InvalidInput, ModelRejected, TooLarge, UnsupportedMedia
from service.repository.manifest import TextInput, VersionFacts
from service.tasks.task import Decoded, Raw

INPUTS: Mapping[str, str] = {"input_ids": "int64", "attention_mask": "int64"}
QUICK_CHARACTERS = 256
_SNIFFED_BYTES = 262  # what `filetype` looks at
_MIN_TOKEN_BYTES = 16


class TextParameters(BaseModel):
    """Parameters of all text tasks.

    Attributes:
        truncate: Cut a text that is too long and mark the result, instead of refusing it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    truncate: Annotated[bool, Field(description="Cut long texts, and say so, instead of refusing.")] = False


class TextTokenizer:
    """The tokenizer of one version.

    Raises:
        ModelRejected: The version takes no text, or its tokenizer does not load.
    """

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        if not isinstance(facts.input, TextInput):
            raise ModelRejected(f"version.yaml says input kind {facts.input.kind}, a text task needs text")
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / facts.input.tokenizer))
        except Exception as error:  # the library raises bare Exception
            raise ModelRejected(f"{facts.input.tokenizer} does not load: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = facts.input.max_tokens
        # A text with more characters than this has too many tokens, whatever the characters are.
        longest = max((len(token.encode()) for token in self._tokenizer.get_vocab()), default=1)
        self._max_characters = self._max_tokens * max(longest, _MIN_TOKEN_BYTES)

    def tokenize(self, raw: Raw, *, truncate: bool, declared_type: str = "") -> Decoded:
        """Return the token ids of one text.

        Args:
            raw: A text, or its bytes in UTF-8.
            truncate: Whether a long text is cut instead of refused.
            declared_type: Media type that the client sent; used only in error messages.

        Returns:
            `input_ids` and `attention_mask` i64 [T]; the cost is T. `truncated` in the context says whether
            the text was cut.

        Raises:
            InvalidInput: The text is empty, blank or not UTF-8, or has no known token.
            UnsupportedMedia: The bytes are of another known format, such as an image.
            TooLarge: The text has more tokens than the model takes.
        """
        text = raw if isinstance(raw, str) else _decode_utf8(raw, declared_type)
        if not text.strip():
            raise InvalidInput("the text is empty")
        too_long = len(text) > self._max_characters
        ids = [] if too_long and not truncate else self._encode(text[: self._max_characters])
        too_many = too_long or len(ids) > self._max_tokens
        if too_many and not truncate:
            count = f"over {self._max_tokens}" if too_long else str(len(ids))
            raise TooLarge(
                f"the text has {count} tokens; the limit is {self._max_tokens}, "
                "and truncate=true cuts it there"
            )
        array = np.array(self._cut(ids) if too_many else ids, dtype=np.int64)
        inputs = {"input_ids": array, "attention_mask": np.ones_like(array)}
        return Decoded((inputs,), (len(array),), {"truncated": too_many})

    def _encode(self, text: str) -> list[int]:
        try:
            encoding = self._tokenizer.encode(text)
        except Exception as error:  # the library raises bare Exception and its own TypeErrors
            raise InvalidInput(f"the text cannot be tokenized: {error}") from error
        if not encoding.ids:
            raise InvalidInput("the text has no token that the model knows")
        return list(encoding.ids)

    def _cut(self, ids: Sequence[int]) -> Sequence[int]:
        """Return the leading ids; a special token at the end, such as `[SEP]`, is kept."""
        last = self._tokenizer.get_added_tokens_decoder().get(ids[-1])
        if last is not None and last.special:
            return [*ids[: self._max_tokens - 1], ids[-1]]
        return ids[: self._max_tokens]


def text_from_json(value: object) -> str:
    """Return the text of a JSON value.

    Raises:
        InvalidInput: The value is something else, such as token ids.
    """
    if not isinstance(value, str):
        raise InvalidInput("must be a text; token ids are not accepted, because every model has its own")
    return value


def _decode_utf8(body: bytes, declared_type: str) -> str:
    try:
        return body.decode("utf-8")  # before any sniffing: a text can begin with BM or SQLi too
    except UnicodeDecodeError as error:
        kind = filetype.guess_mime(body[:_SNIFFED_BYTES]) or declared_type
        if kind and not kind.startswith("text/"):
            raise UnsupportedMedia(f"{kind} is not text; send UTF-8 text") from error
        raise InvalidInput(f"the text is not UTF-8: {error.reason} at byte {error.start}") from error

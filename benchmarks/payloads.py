"""Items to send: pictures that compress like photographs, and texts of variable length. All from a seed.

The lengths of the texts are log-normal with a median of 32 tokens, clipped to 8 … 256.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SHORTEST, MEDIAN, LONGEST = 8, 32, 256  # tokens
SPREAD = 0.8  # standard deviation of the logarithm of a length
_PHOTOGRAPHS = 16


def photograph(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Return a picture with the spectrum of a photograph and some soft edges.

    Returns:
        u8 [height, width, 3].
    """
    random = np.random.default_rng(seed)
    up, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(up, across)
    frequency[0, 0] = 1.0

    def noise(slope: float) -> NDArray[np.float64]:
        waves = random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)
        plane = np.fft.irfft2(waves / frequency**slope, s=(height, width))
        scaled: NDArray[np.float64] = plane / plane.std()
        return scaled

    light = noise(1.25)
    picture = np.stack([128 + 40 * light + 14 * noise(1.35) for _ in range(3)], axis=2)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(4):
        radius = random.uniform(0.05, 0.25) * height
        distance = np.hypot(columns - random.uniform(0, width), rows - random.uniform(0, height))
        inside = 0.7 / (1 + np.exp(np.clip((distance - radius) / 1.5, -60, 60)))[..., None]
        picture = picture * (1 - inside) + inside * random.uniform(20, 235, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)


def photographs(width: int, height: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield different pictures: a few photographs, each rotated by random steps.

    Yields:
        u8 [height, width, 3].
    """
    random = np.random.default_rng(0)
    few = [photograph(width, height, seed) for seed in range(min(count, _PHOTOGRAPHS))]
    yield from few
    for number in range(len(few), count):
        steps = int(random.integers(1, height)), int(random.integers(1, width))
        yield np.roll(few[number % len(few)], steps, axis=(0, 1))


def jpeg(pixels: NDArray[np.uint8], width: int | None = None) -> bytes:
    """Return u8 [H, W, 3] as a JPEG file, scaled to a width if one is given."""
    picture = Image.fromarray(pixels)
    if width:
        size = (width, round(picture.height * width / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def vocabulary(size: int) -> list[str]:
    """Return pseudo-words of syllables; the last quarter are word endings (`##…`).

    Args:
        size: Number of tokens, including special ones.
    """
    syllables = [a + b for a, b in itertools.product("bdfgklmnprstvz", "aeiou")]
    stems = ("".join(parts) for count in (1, 2, 3) for parts in itertools.product(syllables, repeat=count))
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")]
    endings = [f"##{stem}" for stem in itertools.islice(stems, size // 4)]
    words = itertools.islice(
        (s for s in stems if len(s) > 3), size - len(SPECIAL) - len(letters) - len(endings)
    )
    return [*SPECIAL, *letters, *words, *endings]


def tokenizer(tokens: list[str], max_tokens: int) -> Tokenizer:
    """Return a WordPiece tokenizer like BERT's with this vocabulary."""
    made = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    start, end = tokens.index("[CLS]"), tokens.index("[SEP]")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", start), ("[SEP]", end)]
    )
    made.add_special_tokens(list(SPECIAL))
    assert len(made.encode("x " * max_tokens).ids) > max_tokens, "every letter is a token"
    return made


def lengths(count: int, seed: int) -> NDArray[np.int64]:
    """Draw lengths in tokens, including special ones: i64 [count]."""
    drawn = np.random.default_rng(seed).lognormal(math.log(MEDIAN), SPREAD, count)
    return np.clip(np.round(drawn), SHORTEST, LONGEST).astype(np.int64)


def texts(tokens: list[str], count: int, seed: int) -> list[str]:
    """Return texts of variable length: words of the vocabulary, one in seven with an ending."""
    random = np.random.default_rng(seed)
    words = [token for token in tokens if token.isalpha() and len(token) > 1]
    endings = [token[2:] for token in tokens if token.startswith("##") and len(token) > 3]
    written = []
    for length in lengths(count, seed):
        left, text = int(length) - 2, []
        while left > 0:
            word = words[int(random.integers(len(words)))]
            if left > 1 and random.random() < 1 / 7:
                word += endings[int(random.integers(len(endings)))]
                left -= 1
            text.append(word)
            left -= 1
        written.append(" ".join(text))
    return written

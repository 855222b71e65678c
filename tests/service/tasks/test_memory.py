"""Memory after a decoding error: nothing of the item is alive once the error is handled.

The garbage collector is off in these tests. An exception, its traceback and a frame that form a reference
cycle would keep the body and decoded arrays alive until the next collection.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidInput, RequestError, TooLarge, UnsupportedMedia
from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import TASKS, Limits, Task
from tests.service.tasks.audio_files import endless_mp3, recording
from tests.service.tasks.image_files import encode, noise, png
from tests.tiny_models import make_model
from tests.tiny_speech_models import make_keyword_model, make_speech_model, wav
from tests.tiny_text_models import make_text_model

_WIDE = noise(400, 300)
_NOT_FINITE = wav(np.full(400_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
_EXIF = b"Exif\0\0" + bytes(100)

IMAGES = {
    **{
        f"{format} cut off": (encode(Image.fromarray(_WIDE), format)[:-300], InvalidInput)
        for format in ("PNG", "JPEG", "GIF", "BMP")
    },
    "WEBP cut off": (encode(Image.fromarray(_WIDE), "WEBP")[:-300], InvalidInput),
    "JPEG with broken EXIF cut off": (
        encode(Image.fromarray(_WIDE), "JPEG", exif=_EXIF)[:-300],
        InvalidInput,
    ),
    "too many pixels": (png(30_000, 30_000, colour=2), TooLarge),
    "too many pixels in a JPEG": (encode(Image.new("L", (1200, 1000)), "JPEG"), TooLarge),
    "not an image": (b"%PDF-1.7\n" + bytes(10_000), UnsupportedMedia),
    "unknown bytes": (bytes(10_000), InvalidInput),
}
RECORDINGS = {
    "too long": (endless_mp3(3600), TooLarge),
    "not finite": (_NOT_FINITE, InvalidInput),
    "damaged FLAC": (recording(format="FLAC")[:1000] + bytes(5000), InvalidInput),
    "cut off in the header": (recording(format="OGG", subtype="OPUS")[:60], InvalidInput),
    "no samples": (wav(np.zeros(0, dtype=np.float32)), InvalidInput),
    "not audio": (b"%PDF-1.7\n" + bytes(10_000), UnsupportedMedia),
}
TEXTS = {
    "not UTF-8": (b"text " * 1000 + b"\xff", InvalidInput),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes([255]) * 10_000, UnsupportedMedia),
    "too many tokens": (b"x" * 1000, TooLarge),
    "far too many tokens": (b"x" * 1_000_000, TooLarge),
}
CASES = [
    pytest.param(task, body, error, id=f"{task}: {name}")
    for task, items in (
        ("image-classification", IMAGES),
        ("speech-recognition", RECORDINGS),
        ("audio-classification", RECORDINGS),
        ("text-classification", TEXTS),
        ("text-embedding", TEXTS),
    )
    for name, (body, error) in items.items()
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    repository = tmp_path_factory.mktemp("models")
    folders = [
        make_model(repository, "image"),
        make_speech_model(repository, "speech"),
        make_keyword_model(repository, "keywords"),
        make_text_model(repository, "labels", "text-classification"),
        make_text_model(repository, "vectors", "text-embedding"),
    ]
    names = [
        "image-classification",
        "speech-recognition",
        "audio-classification",
        "text-classification",
        "text-embedding",
    ]
    return {
        name: TASKS[name](folder, read(folder / VERSION_FILE, VersionFacts))
        for name, folder in zip(names, folders, strict=True)
    }


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)  # unreachable objects go to `gc.garbage`
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def in_cycles() -> list[object]:
    """Return what only the garbage collector would free."""
    gc.collect()
    return list(gc.garbage)


def decode_failing(task: Task, body: bytes, error: type[RequestError]) -> None:
    try:
        task.decode(body, Limits(max_pixels=10**6, max_audio_seconds=60.0), task.parameters())
    except error:
        return
    raise AssertionError("the item was decoded")


@pytest.mark.parametrize(("name", "body", "error"), CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
def test_nothing_outlives_a_decoding_error(
    tasks: dict[str, Task], name: str, body: bytes, error: type[RequestError], no_collector: None
) -> None:
    decode_failing(tasks[name], body, error)
    assert not in_cycles()


def test_the_check_finds_a_cycle(no_collector: None) -> None:
    def fail() -> None:
        try:
            raise ValueError
        except ValueError as raised:
            error = raised  # the frame keeps the exception, whose traceback keeps the frame
            assert error

    fail()
    assert [thing for thing in in_cycles() if isinstance(thing, ValueError)]

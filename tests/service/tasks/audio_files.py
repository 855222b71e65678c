"""Waveform files of every kind, and what they say when they are read letter by letter."""

from __future__ import annotations

import functools
import struct
from io import BytesIO

import numpy as np
import soundfile

from service.tasks.audio.ctc_decoding import best_path, decode_words
from service.tasks.audio.waveform import AudioSegment, Waveform, decode_audio
from tests.tiny_speech_models import RATE, TOKENS, speak, tone_log_probs, wav

SAID = ("bad", "dad", "head")


def read(
    body: bytes, *, max_seconds: float = 60.0, truncate: bool = False, declared_type: str = ""
) -> Waveform:
    """Decode at the tiny models' rate."""
    return decode_audio(body, RATE, max_seconds=max_seconds, truncate=truncate, declared_type=declared_type)


def heard(waveform: Waveform) -> str:
    """The words of a waveform."""
    log_probs = tone_log_probs(AudioSegment(waveform.samples)["audio"])
    return " ".join(word.word for word in decode_words(best_path(log_probs), log_probs, TOKENS))


@functools.cache
def recording(rate: int = 16_000, format: str = "WAV", subtype: str = "", channels: int = 1) -> bytes:
    """A file that says `SAID`."""
    samples, _ = speak(SAID, rate=rate, pauses=0.1)
    if channels > 1:
        samples = np.stack([samples] * channels, axis=1)
    return wav(samples, rate, format=format, subtype=subtype)


def claiming(body: bytes, size: int) -> bytes:
    """A WAV file whose header says that it has so many bytes of samples."""
    at = body.index(b"data") + 4
    return body[:at] + struct.pack("<I", size) + body[at + 4 :]


def piped_flac(body: bytes) -> bytes:
    """A FLAC file as an encoder leaves it that could not go back: its header counts no samples."""
    return body[:21] + bytes((body[21] & 0xF0, 0, 0, 0, 0)) + body[26:]


@functools.cache
def piped_mp3(rate: int = 16_000) -> bytes:
    """`SAID` in an MP3 file of varying bit rate that counts no frames and begins with a large one."""
    samples, _ = speak(SAID, rate=rate, pauses=0.1)
    crackle = np.random.default_rng(0).normal(0, 0.3, rate // 5).astype(np.float32)
    silence = np.zeros(rate, dtype=np.float32)
    file = BytesIO()
    waveform = np.concatenate([crackle, silence, samples, silence])
    soundfile.write(file, waveform, rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.2)
    body = file.getvalue()
    return body[body.index(body[:2], 4) :]  # from the frame behind the one that counts the others


@functools.cache
def endless_mp3(seconds: int) -> bytes:
    """Silence for hours in a kilobyte a second, without a header that says how much there is."""
    content = wav(np.zeros(20 * 8000, dtype=np.float32), 8000, format="MP3")
    first = content.index(b"\xff\xe3", 4)  # the frame behind the one that counts the others
    return content[first:] * (seconds // 20 + 1)

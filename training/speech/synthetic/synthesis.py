"""Speech synthesis with the programs espeak-ng, flite and festival: sentences become samples.

Each sentence is spoken by one voice with one prosody, resampled, and trimmed to a little silence around it.
The same request always gives the same samples.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soxr
from numpy.typing import NDArray

from training.errors import DataRejected
from training.speech.synthetic.grammar import respell
from training.speech.synthetic.voices import FESTIVAL_VOICES, Prosody, Voice

VERSION = 1  # increased when the same request would give other samples
_WORDS_PER_MINUTE = 175  # eSpeak's own speed
_PITCHES_HERTZ = {"slt": 172, "awb": 125, "rms": 100, "kal": 105, "ked": 105}  # of recorded speakers
_PEAK = 0.7  # of full scale
_LONGEST_SECONDS = 60  # per sentence
_CHUNK = 120  # sentences per task of a thread


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """A sentence with the voice and the prosody that speak it."""

    text: str
    voice: Voice
    prosody: Prosody


def synthesize(requests: Sequence[SpeechRequest], sample_rate: int) -> list[NDArray[np.int16]]:
    """Synthesize sentences on all CPUs.

    Returns:
        For each request i16 [T], mono, with a peak of 0.7 of full scale; i16 [0] for an empty text.

    Raises:
        DataRejected: A synthesizer failed; the text names voice and sentence.
    """
    return [samples for chunk in synthesize_chunks(requests, sample_rate) for samples in chunk]


def synthesize_chunks(
    requests: Sequence[SpeechRequest], sample_rate: int
) -> Iterator[list[NDArray[np.int16]]]:
    """Yield the results of `synthesize` in order, many sentences at a time, as soon as they are ready."""
    chunks = [requests[start : start + _CHUNK] for start in range(0, len(requests), _CHUNK)]
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        waiting = iter(chunks)
        running = [pool.submit(_speak_chunk, chunk, sample_rate) for chunk in islice(waiting, 2 * threads)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(_speak_chunk, chunk, sample_rate) for chunk in islice(waiting, 1)]


def _speak_chunk(requests: Sequence[SpeechRequest], sample_rate: int) -> list[NDArray[np.int16]]:
    waves = _festival(
        [request for request in requests if request.text and request.voice.engine == "festival"]
    )
    spoken = []
    for request in requests:
        if not request.text:
            spoken.append(np.zeros(0, dtype=np.int16))
            continue
        wave = next(waves) if request.voice.engine == "festival" else _run(_command(request), request)
        spoken.append(_finished(wave, request, sample_rate))
    return spoken


def _command(request: SpeechRequest) -> list[str]:
    """Return the command line of a synthesizer that speaks one sentence per call."""
    prosody, text = request.prosody, respell(request.text)
    if request.voice.engine == "espeak":
        pitch, speed = round(50 + 45 * prosody.pitch), round(_WORDS_PER_MINUTE * prosody.speed)
        options = [f"-v{request.voice.name}", f"-p{pitch}", f"-s{speed}", f"-g{prosody.gap}"]
        return ["espeak-ng", "--stdout", *options, "--", text]
    return [
        *["flite", "-voice", request.voice.name],
        *["--setf", f"duration_stretch={1 / prosody.speed:.3f}"],
        *["--setf", f"int_f0_target_mean={_pitch_hertz(request):.1f}"],
        *["-t", text, "-o", "/dev/stdout"],
    ]


def _pitch_hertz(request: SpeechRequest) -> float:
    return float(_PITCHES_HERTZ[request.voice.speaker] * 1.25**request.prosody.pitch)


def _run(command: Sequence[str], request: SpeechRequest) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_LONGEST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DataRejected(f"{request.voice} did not finish speaking {request.text!r}") from error
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()[-200:]
        raise DataRejected(f"{request.voice} cannot speak {request.text!r}: {message}")
    return done.stdout


def _festival(requests: Sequence[SpeechRequest]) -> Iterator[bytes]:
    """Speak all sentences with one process of festival, which is slow to start."""
    if not requests:
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        lines = [_scheme(request, folder / f"{number}.wav") for number, request in enumerate(requests)]
        (folder / "speak.scm").write_text("\n".join(lines), encoding="ascii")
        command = ["festival", "-b", str(folder / "speak.scm")]
        subprocess.run(command, capture_output=True, check=False, timeout=_LONGEST_SECONDS * len(requests))
        for number in range(len(requests)):
            file = folder / f"{number}.wav"
            yield file.read_bytes() if file.is_file() else b""


def _scheme(request: SpeechRequest, file: Path) -> str:
    """Return one request in festival's language; choosing a voice resets all of its parameters."""
    pitch, prosody = _pitch_hertz(request), request.prosody
    if request.voice.name == "slt":
        # Its pitch cannot be set; the prosody's shift varies that.
        tuned = f'(set! hts_engine_params (cons (list "-r" {prosody.speed}) hts_engine_params))'
    else:
        tuned = (
            f"(Parameter.set 'Duration_Stretch {1 / prosody.speed:.3f})"
            f"(set! int_lr_params '((target_f0_mean {pitch:.1f}) (target_f0_std 15)"
            "(model_f0_mean 170) (model_f0_std 34)))"
        )
    spoken = f'(utt.synth (Utterance Text "{respell(request.text)}"))'
    return f'(voice_{FESTIVAL_VOICES[request.voice.name]}){tuned}(utt.save.wave {spoken} "{file}" \'riff)'


def _finished(wave: bytes, request: SpeechRequest, sample_rate: int) -> NDArray[np.int16]:
    samples, rate = _wave_samples(wave)
    if len(samples) == 0 or not np.abs(samples).max() > 0:
        raise DataRejected(f"{request.voice} said nothing for {request.text!r}")
    heard = soxr.resample(samples, rate * request.prosody.shift, sample_rate)
    heard = _with_silence(heard, request.prosody, sample_rate)
    return np.asarray(heard * (_PEAK * 32767 / np.abs(heard).max()), dtype=np.int16)


def _wave_samples(wave: bytes) -> tuple[NDArray[np.float32], int]:
    """Read a mono 16-bit WAV file whose header may have a wrong length, as in a stream."""
    start = wave.find(b"data")
    if wave[:4] != b"RIFF" or start < 0:
        return np.zeros(0, np.float32), 1
    sound = wave[start + 8 :]
    samples = np.frombuffer(sound[: len(sound) // 2 * 2], "<i2").astype(np.float32)
    return samples, int.from_bytes(wave[24:28], "little")


def _with_silence(samples: NDArray[np.float32], prosody: Prosody, rate: int) -> NDArray[np.float32]:
    """Trim to the speech and add silence; the synthesizer's own silence is used if there is any."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    lead, tail = round(prosody.lead_seconds * rate), round(prosody.tail_seconds * rate)
    first, last = int(loud[0]), int(loud[-1]) + 1
    kept = samples[max(0, first - lead) : last + tail]
    return np.pad(kept, (max(0, lead - first), max(0, last + tail - len(samples))))

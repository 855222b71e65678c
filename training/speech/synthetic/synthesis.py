"""Speech synthesis by the programs espeak-ng, flite and festival: sentences -> samples.

Each sentence is spoken by one voice in one manner and comes back at the wanted rate, cut to what is
said, with a little silence around it. The same order always gives the same samples.
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
from training.speech.synthetic.grammar import spelling_to_speak
from training.speech.synthetic.voices import FESTIVAL_VOICES, Manner, Voice

VERSION = 1  # rises when the same order would sound different
_WORDS_A_MINUTE = 175  # eSpeak's own speed
_PITCHES_HERTZ = {"slt": 172, "awb": 125, "rms": 100, "kal": 105, "ked": 105}  # of recorded speakers
_PEAK = 0.7  # of full scale
_LONGEST_SECONDS = 60  # for one sentence to be spoken
_CHUNK = 120  # sentences that one thread has spoken at a time


@dataclass(frozen=True, slots=True)
class Order:
    """A sentence to be spoken, by whom and how."""

    text: str
    voice: Voice
    manner: Manner


def speak(orders: Sequence[Order], sample_rate: int) -> list[NDArray[np.int16]]:
    """Speak sentences on all CPUs.

    Returns:
        For each order i16 [T], mono, peaking at 0.7 of full scale; i16 [0] where there is no text.

    Raises:
        DataRejected: A synthesiser failed; the text names voice and sentence.
    """
    return [samples for chunk in speak_in_chunks(orders, sample_rate) for samples in chunk]


def speak_in_chunks(orders: Sequence[Order], sample_rate: int) -> Iterator[list[NDArray[np.int16]]]:
    """Speak as `speak` does, and give the sentences in order as they are ready, many at a time."""
    chunks = [orders[start : start + _CHUNK] for start in range(0, len(orders), _CHUNK)]
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        waiting = iter(chunks)
        running = [pool.submit(_speak_chunk, chunk, sample_rate) for chunk in islice(waiting, 2 * threads)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(_speak_chunk, chunk, sample_rate) for chunk in islice(waiting, 1)]


def _speak_chunk(orders: Sequence[Order], sample_rate: int) -> list[NDArray[np.int16]]:
    waves = _festival([order for order in orders if order.text and order.voice.engine == "festival"])
    spoken = []
    for order in orders:
        if not order.text:
            spoken.append(np.zeros(0, dtype=np.int16))
            continue
        wave = next(waves) if order.voice.engine == "festival" else _run(_command(order), order)
        spoken.append(_finished(wave, order, sample_rate))
    return spoken


def _command(order: Order) -> list[str]:
    """Say how a synthesiser that speaks one sentence a call is called."""
    manner, text = order.manner, spelling_to_speak(order.text)
    if order.voice.engine == "espeak":
        pitch, speed = round(50 + 45 * manner.pitch), round(_WORDS_A_MINUTE * manner.speed)
        options = [f"-v{order.voice.name}", f"-p{pitch}", f"-s{speed}", f"-g{manner.gap}"]
        return ["espeak-ng", "--stdout", *options, "--", text]
    return [
        *["flite", "-voice", order.voice.name],
        *["--setf", f"duration_stretch={1 / manner.speed:.3f}"],
        *["--setf", f"int_f0_target_mean={_pitch_hertz(order):.1f}"],
        *["-t", text, "-o", "/dev/stdout"],
    ]


def _pitch_hertz(order: Order) -> float:
    return float(_PITCHES_HERTZ[order.voice.speaker] * 1.25**order.manner.pitch)


def _run(command: Sequence[str], order: Order) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_LONGEST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DataRejected(f"{order.voice} did not finish speaking {order.text!r}") from error
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip()[-200:]
        raise DataRejected(f"{order.voice} cannot speak {order.text!r}: {told}")
    return done.stdout


def _festival(orders: Sequence[Order]) -> Iterator[bytes]:
    """Have one process of festival speak all of them: it is slow to start."""
    if not orders:
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        lines = [_scheme(order, folder / f"{number}.wav") for number, order in enumerate(orders)]
        (folder / "speak.scm").write_text("\n".join(lines), encoding="ascii")
        command = ["festival", "-b", str(folder / "speak.scm")]
        subprocess.run(command, capture_output=True, check=False, timeout=_LONGEST_SECONDS * len(orders))
        for number in range(len(orders)):
            file = folder / f"{number}.wav"
            yield file.read_bytes() if file.is_file() else b""


def _scheme(order: Order, file: Path) -> str:
    """Write one sentence's order in festival's language; choosing a voice resets all of its parameters."""
    pitch, manner = _pitch_hertz(order), order.manner
    if order.voice.name == "slt":
        # Its pitch cannot be set; the manner's shift varies that.
        tuned = f'(set! hts_engine_params (cons (list "-r" {manner.speed}) hts_engine_params))'
    else:
        tuned = (
            f"(Parameter.set 'Duration_Stretch {1 / manner.speed:.3f})"
            f"(set! int_lr_params '((target_f0_mean {pitch:.1f}) (target_f0_std 15)"
            "(model_f0_mean 170) (model_f0_std 34)))"
        )
    spoken = f'(utt.synth (Utterance Text "{spelling_to_speak(order.text)}"))'
    return f'(voice_{FESTIVAL_VOICES[order.voice.name]}){tuned}(utt.save.wave {spoken} "{file}" \'riff)'


def _finished(wave: bytes, order: Order, sample_rate: int) -> NDArray[np.int16]:
    samples, rate = _wave_samples(wave)
    if len(samples) == 0 or not np.abs(samples).max() > 0:
        raise DataRejected(f"{order.voice} said nothing for {order.text!r}")
    heard = soxr.resample(samples, rate * order.manner.shift, sample_rate)
    heard = _with_silence(heard, order.manner, sample_rate)
    return np.asarray(heard * (_PEAK * 32767 / np.abs(heard).max()), dtype=np.int16)


def _wave_samples(wave: bytes) -> tuple[NDArray[np.float32], int]:
    """Read a mono 16-bit WAV whose length in the header may be wrong, as of a stream."""
    start = wave.find(b"data")
    if wave[:4] != b"RIFF" or start < 0:
        return np.zeros(0, np.float32), 1
    sound = wave[start + 8 :]
    samples = np.frombuffer(sound[: len(sound) // 2 * 2], "<i2").astype(np.float32)
    return samples, int.from_bytes(wave[24:28], "little")


def _with_silence(samples: NDArray[np.float32], manner: Manner, rate: int) -> NDArray[np.float32]:
    """Cut to what is said, and put the wanted silence around; the synthesiser's own where it has some."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    lead, tail = round(manner.lead_seconds * rate), round(manner.tail_seconds * rate)
    first, last = int(loud[0]), int(loud[-1]) + 1
    kept = samples[max(0, first - lead) : last + tail]
    return np.pad(kept, (max(0, lead - first), max(0, last + tail - len(samples))))

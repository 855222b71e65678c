"""CPU time from a JPEG file to the graph's input, against Pillow and float32 arithmetic.

`python -m benchmarks image_decoding [--size 224] [--agreement 1500]`: files of three sizes for a graph of
224 × 224 in colour: scikit-learn's two photographs, enlarged, and noise with the spectrum of a photograph.
The baseline decodes, scales, normalises and transposes to float32; Kotae decodes and scales, because its
graph normalises. CPU time of one thread. The notes also give the time to read the file's bits alone, which
is a lower limit, and how many answers of the shipped digits model stay the same when pictures are decoded
at a reduced size.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.enlarged_digits import enlarged_digits
from benchmarks.fastapi_baseline import normalise, read_pixels
from benchmarks.machine import REPOSITORY
from benchmarks.pairs import Estimate, interleaved, ratios
from benchmarks.payloads import jpeg, photograph
from benchmarks.report import Report, parse
from service.engine.runtime.session import Device, Session
from service.repository.manifest import VERSION_FILE, ImageInput, VersionFacts, read
from service.tasks.image.image_file import open_image
from service.tasks.image.preprocessing import decode_and_resize, resize_image

PICTURES = {"12 MP": (4032, 3024, 8.0), "1080p": (1920, 1080, 4.0), "500 x 375": (500, 375, 2.0)}
THUMBNAIL = "2 kB, 64 x 48"  # for a graph of 32 × 32 pixels
MOST_PIXELS = 10**8


def baseline_pixels(body: bytes, spec: ImageInput) -> object:
    """Preprocess as the FastAPI baseline does."""
    return normalise(read_pixels(body, spec))


def our_pixels(body: bytes, spec: ImageInput) -> object:
    """Preprocess as Kotae does."""
    return decode_and_resize(body, spec, max_pixels=MOST_PIXELS)


def file_bits(body: bytes, spec: ImageInput) -> object:
    """Decode as little as the decoder can: the luminance at an eighth of the size."""
    height, width, *_ = simplejpeg.decode_jpeg_header(body)
    return simplejpeg.decode_jpeg(body, "GRAY", min_height=-(-height // 8), min_width=-(-width // 8))


def enlarged_photographs(width: int, height: int) -> list[bytes]:
    """Return JPEG files of scikit-learn's two photographs."""
    pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [jpeg(np.asarray(p.resize((width, height), Image.Resampling.LANCZOS))) for p in pictures]


def noise_like_photographs(width: int, height: int) -> list[bytes]:
    """Return JPEG files of noise with the spectrum of photographs."""
    return [jpeg(photograph(width, height, seed)) for seed in range(2)]


def cpu_seconds(
    decode: Callable[[bytes, ImageInput], object], files: Sequence[bytes], spec: ImageInput, seconds: float
) -> float:
    """Return the mean CPU seconds for a file, over rounds of all files for about this duration."""
    started = time.thread_time()
    rounds = 0
    while rounds == 0 or time.thread_time() - started < seconds:
        for body in files:
            decode(body, spec)
        rounds += 1
    return (time.thread_time() - started) / (rounds * len(files))


def agreement(count: int) -> tuple[float, float, float]:
    """Compare the digits model's answers for pictures decoded at reduced and at full size.

    Returns:
        Share of equal labels, largest difference of a probability, mean difference of a pixel in levels.
    """
    folder = REPOSITORY / "models/digits/1"
    facts = read(folder / VERSION_FILE, VersionFacts)
    spec = facts.input
    assert isinstance(spec, ImageInput), "digits are pictures"
    run = Session(folder / facts.variants[0].file, Device("cpu")).run
    reduced, whole = [], []
    for body in enlarged_digits(count):
        reduced.append(decode_and_resize(body, spec, max_pixels=MOST_PIXELS).pixels)
        whole.append(resize_image(open_image(body, spec.channels, max_pixels=MOST_PIXELS), spec))
    ours, theirs = np.stack(reduced), np.stack(whole)
    a, b = (run({"image": pixels})["probabilities"] for pixels in (ours, theirs))
    same = float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    return same, float(np.abs(a - b).max()), float(np.abs(ours.astype(int) - theirs).mean())


def main() -> None:
    """Measure and report."""
    run, options = parse("image_decoding", __doc__, rounds=15, seconds=0.25, add=_add_options)
    os.sched_setaffinity(0, {run.cores.service})
    report = Report(run, "decode and resize, CPU time", "times as fast as the baseline")
    spec = ImageInput(width=options.size, height=options.size)
    jobs: dict[str, tuple[ImageInput, int, int, float | None]] = {
        name: (spec, width, height, goal)
        for name, (width, height, goal) in PICTURES.items()
        if not run.quick or width < 1000
    }
    jobs[THUMBNAIL] = (ImageInput(width=32, height=32), 64, 48, None)
    kinds = {"photographs": enlarged_photographs, "detailed noise": noise_like_photographs}
    with run.progress(len(jobs) * len(kinds) * run.rounds * 3) as tick:
        for (size, (wanted, width, height, goal)), (kind, make) in itertools.product(
            jobs.items(), kinds.items()
        ):
            name, files = f"{size}, {kind}", make(width, height)
            ways = (baseline_pixels, our_pixels, file_bits)
            measures = (partial(cpu_seconds, way, files, wanted, run.seconds) for way in ways)
            rows = interleaved(run.rounds, *measures, tick=tick)
            report.add(name, ratios(rows, over=1, of=0), goal)
            times = [Estimate.of(row[i] * 1e3 for row in rows) for i in range(len(ways))]
            names = ("baseline_ms", "kotae_ms", "bits_ms")
            report.details[name] = {what: time.as_json() for what, time in zip(names, times, strict=True)}
            length = sum(map(len, files)) / len(files) / 1000
            limit = ratios(rows, over=2, of=0).median
            report.notes.append(
                f"{name}: {length:.0f} kB, baseline {times[0].median:.3g} ms, "
                f"Kotae {times[1].median:.3g} ms; reading the bits alone {limit:.3g} times as fast"
            )
    count = 20 if run.quick else options.agreement
    same, probability, level = agreement(count)
    report.notes.append(
        f"digits model, {count} pictures decoded smaller against whole: {same:.2%} the same label, "
        f"probabilities within {probability:.3f}, pixels {level:.2f} of 255 apart on average"
    )
    report.details["agreement"] = {
        "pictures": count,
        "same": same,
        "probability": probability,
        "level": level,
    }
    report.finish()


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=224, help="side of the graph's input")
    parser.add_argument("--agreement", type=int, default=1500, help="pictures to compare answers on")

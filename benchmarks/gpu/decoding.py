"""The limit of decoding: each core of the service only decodes JPEGs to the graph's size.

`python -m benchmarks.gpu.decoding FOLDER SIDE SECONDS` runs on each core and prints pictures a second.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import REPOSITORY
from service.repository.manifest import ImageInput
from service.tasks.image.preprocessing import decode_and_resize

_MOST_PIXELS = 10**8


def decode_rate(folder: Path, side: int, seconds: float, cores: Sequence[int]) -> float:
    """Decode on all cores at once; return pictures per second.

    Args:
        folder: JPEG files.
        side: Side of the graph's input in pixels.
        seconds: Duration.
        cores: One process runs on each.

    Raises:
        SystemExit: A process failed.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.decoding", str(folder), str(side), str(seconds)]
    processes = [
        subprocess.Popen(
            ["taskset", "-c", str(core), *command], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        for core in cores
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process that decodes failed")
    return sum(map(float, outputs))


def main() -> None:
    """Decode until the time is over."""
    folder, side, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    spec = ImageInput(width=side, height=side)
    decode_and_resize(files[0], spec, max_pixels=_MOST_PIXELS)
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        decode_and_resize(files[done % len(files)], spec, max_pixels=_MOST_PIXELS)
        done += 1
    print(done / spent)


if __name__ == "__main__":
    main()

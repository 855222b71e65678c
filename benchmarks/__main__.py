"""Runs benchmarks one after the other: `python -m benchmarks [NAME…] [--quick] [--rounds N]`.

Without names, those that say most; `all` is every one. Options are passed on to each. Each is a command of
its own too, with options of its own: `python -m benchmarks.overload --help`. See README.md beside this
file.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

from benchmarks.machine import REPOSITORY

MAIN = ("throughput", "efficiency", "mixed_text", "overload", "startup")
REST = (
    *("refusals", "mixed_deadlines", "two_models", "priorities", "quota", "decode", "int8"),
    *("hop", "http_workers", "soak"),
)


def main() -> None:
    """Run them; what they print is the result, and each leaves a JSON file and a picture."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__, "", "names: " + ", ".join((*MAIN, *REST)), sep="\n")
        return
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    options = arguments[len(names) :]
    if unknown := set(names) - {*MAIN, *REST, "all"}:
        raise SystemExit(f"no such benchmark: {', '.join(sorted(unknown))}")
    chosen = (*MAIN, *REST) if "all" in names else names or MAIN
    failed = [name for name in chosen if _run(name, options)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _run(name: str, options: list[str]) -> int:
    print(f"\n{name}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    main()

"""Mutation testing of the engine and of load shedding: `make mutants`, or one module with `MODULE=path`.

mutmut changes one expression at a time and runs those tests of the module's own folder that reach the changed
function. It does not change module constants and properties; the constants are changed here, up and down. A
mutant that no test notices is a survivor. `mutants_accepted.txt` lists accepted survivors, one change and its
reason a line, separated by " # ". The run fails if more than 5% of the other mutants survive.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mutmut.__main__ import _run as run_mutmut
from mutmut.configuration import config
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name

MOST_SURVIVORS = 0.05
ACCEPTED = Path("tests/mutants_accepted.txt")
COPY = Path("mutants")  # mutmut's copy of the code, in which the tests run
SURVIVED = {0, 5, 33}  # exit codes of pytest: passed, and nothing collected; of mutmut: no test reaches it


def main(arguments: Sequence[str]) -> int:
    """Run the mutants of some modules and print the survivors.

    Returns:
        The exit status: 1 if too many survived.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "modules", nargs="*", help="files or folders; all that are configured, if none is given"
    )
    parser.add_argument("--sample", type=int, help="number of mutants of each module, chosen at random")
    options = parser.parse_args(arguments)
    os.environ.pop("PYTHONPATH", None)  # it would make the tests import the original code
    files = [path for path in _files(options.modules) if config().should_mutate(path)]
    mutants = [name for path in files for name in _chosen(_mutants(path), options.sample)]
    config().pytest_add_cli_args_test_selection = sorted({f"tests/{path.parent}" for path in files})
    run_mutmut(mutants, os.cpu_count())
    changes = dict(_expression_changes(files, set(mutants)))
    for path in files:
        changes |= dict(_constant_changes(path))
    return _report(changes)


def _files(modules: Sequence[str]) -> list[Path]:
    paths = [Path(module) for module in modules or ["service"]]
    return sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))


def _mutants(path: Path) -> list[str]:
    return [
        get_mutant_name(path, name) for name in mutate_file_contents(str(path), path.read_text()).mutant_names
    ]


def _chosen(names: list[str], count: int | None) -> list[str]:
    return names if count is None else random.Random(0).sample(names, min(count, len(names)))


def _expression_changes(files: Sequence[Path], mutants: set[str]) -> Iterator[tuple[str, bool]]:
    """Yield mutmut's changes, and whether each survived."""
    for path in files:
        meta = COPY / f"{path}.meta"
        codes = json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}
        for name in sorted(mutants & set(codes)):
            lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
            change = " => ".join(
                " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
            )
            function = name.rpartition("__mutmut_")[0].rpartition("ǁ")[2].rpartition(".x_")[2]
            yield f"{path} {function}: {change}", codes[name] in SURVIVED


def _constant_changes(path: Path) -> Iterator[tuple[str, bool]]:
    """Change each numeric constant of a module, and yield whether its tests still pass."""
    tests = _tests_of(path)
    copy = COPY / path
    source = copy.read_text()
    for constant in _constants(path):
        for factor in (1.25, 0.8):
            old = ast.unparse(constant)
            changed = _scaled(ast.literal_eval(constant.value), factor)
            new = f"{old.partition(' = ')[0]} = {changed}"
            line = next(line for line in source.splitlines() if line.startswith(old))
            copy.write_text(source.replace(line, new, 1))
            try:
                yield f"{path} {old} => {changed}", bool(tests) and _passes(tests)
            finally:
                copy.write_text(source)


def _constants(path: Path) -> Iterator[ast.Assign]:
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.Assign(value=ast.Constant(value=int() | float())):
                yield node


def _scaled(value: float, factor: float) -> float:
    if isinstance(value, int):
        return value + (1 if factor > 1 else -1)
    return value * factor


def _tests_of(path: Path) -> list[str]:
    stats = json.loads((COPY / "mutmut-stats.json").read_text())["tests_by_mangled_function_name"]
    prefix = ".".join(path.with_suffix("").parts) + "."
    return sorted({test for name, tests in stats.items() if name.startswith(prefix) for test in tests})


def _passes(tests: Sequence[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", *config().pytest_add_cli_args, *tests]
    environment = {**os.environ, "MUTANT_UNDER_TEST": ""}
    try:
        subprocess.run(command, check=True, cwd=COPY, env=environment, capture_output=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def _report(changes: dict[str, bool]) -> int:
    accepted = {line.rpartition(" # ")[0] for line in ACCEPTED.read_text().splitlines()}
    judged = {change: survived for change, survived in changes.items() if change not in accepted}
    survivors = sorted(change for change, survived in judged.items() if survived)
    for change in survivors:
        print("survived:", change)
    share = len(survivors) / max(1, len(judged))
    print(f"{len(survivors)} of {len(judged)} mutants survived ({share:.1%})")
    return int(share > MOST_SURVIVORS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

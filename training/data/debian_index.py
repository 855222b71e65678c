"""Fetch and read Debian's package index with apt: stanzas of Packages and Translation files.

apt keeps its lists in a folder of the user, so that no privilege is needed and the system's state does not
change. It uses the machine's apt sources, so Debian or a derivative is needed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.debian_packages import run_command
from training.errors import DataRejected

_HELPER = Path("/usr/lib/apt/apt-helper")  # part of apt; decompresses lists
_FORMAT = "$(IDENTIFIER)\t$(LANGUAGE)\t$(FILENAME)"

Stanza = dict[str, str]


@dataclass(frozen=True, slots=True)
class IndexFile:
    """One list that apt fetched.

    Attributes:
        kind: `Packages` or `Translations`.
        language: apt's name of the language (`pt_BR`), empty for `Packages`.
        path: The list's file, which may be compressed.
    """

    kind: str
    language: str
    path: Path


def fetch_index(folder: Path, languages: Sequence[str]) -> list[IndexFile]:
    """Fetch the package lists and the descriptions in some languages.

    Args:
        folder: Folder for apt's state; a second fetch only loads changes.
        languages: apt's names of the languages.

    Raises:
        DataRejected: apt is missing or cannot fetch.
    """
    if shutil.which("apt-get") is None or not _HELPER.is_file():
        raise DataRejected("package descriptions are read with apt, which is not on this machine: use Debian")
    state, cache = folder.resolve() / "state", folder.resolve() / "cache"
    for path in (state / "lists" / "partial", cache / "archives" / "partial"):
        path.mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::Cache": cache,
        "Acquire::Languages": ",".join(languages),
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    _run(["apt-get", *options, "update"])
    listed = _run(["apt-get", *options, "indextargets", "--format", _FORMAT])
    found = [IndexFile(kind, _language(name), Path(path)) for kind, name, path in _rows(listed)]
    wanted = [file for file in found if file.kind in ("Packages", "Translations")]
    if {file.kind for file in wanted} != {"Packages", "Translations"}:
        raise DataRejected("apt has fetched no package lists with translations: is it set up with a mirror?")
    return wanted


def read_index(file: IndexFile) -> Iterator[Stanza]:
    """Yield the stanzas of a list, one per package."""
    return parse_stanzas(_run([str(_HELPER), "cat-file", str(file.path)]))


def parse_stanzas(text: str) -> Iterator[Stanza]:
    """Yield the stanzas of a control file: fields by name.

    Continuation lines of a field keep their markup and their line breaks.
    """
    for block in text.split("\n\n"):
        stanza: Stanza = {}
        name = ""
        for line in block.splitlines():
            if line.startswith((" ", "\t")):
                if name:
                    stanza[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                stanza[name] = value.strip()
        if stanza:
            yield stanza


def _run(command: list[str]) -> str:
    return run_command(command).decode("utf-8", "replace")


def _rows(listed: str) -> Iterator[tuple[str, str, str]]:
    for line in listed.splitlines():
        kind, language, path = line.split("\t")
        yield kind, language, path


def _language(name: str) -> str:
    return "" if name.startswith("$(") else name

"""Debian's package descriptions as training data: two files of JSON lines.

`languages.jsonl` has one description per line with its language: the English ones and their translations.
`descriptions.jsonl` has English one-line summaries with their long descriptions. Every line names the source
package, so that a split can keep together what was written together.

A translation belongs to the package with the same name and the same checksum of the English text.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.debian_index import IndexFile, Stanza, fetch_index, read_index
from training.errors import DataRejected

# apt's name of a language, and its ISO 639-1 code; variants of one language are merged.
LANGUAGES: Mapping[str, str] = {
    **{code: code for code in ("en", "da", "it", "fr", "de", "sk", "pt", "ja", "uk", "ko")},
    **{code: code for code in ("pl", "ru", "es", "cs", "zh")},
    **{"pt_BR": "pt", "zh_CN": "zh", "zh_TW": "zh"},
}
# Languages with the label `unknown`. Others that Debian has (Catalan, Dutch, Norwegian, Turkish, …) are not
# trained on, so that they can be used to test unknown languages.
OTHERS = ("fi", "hr", "hu", "sr", "sv")
UNKNOWN = "unknown"
LANGUAGES_FILE = "languages.jsonl"
PAIRS_FILE = "descriptions.jsonl"
_SHORTEST = 20  # fewest characters of a description
_WORDLESS = 1000  # number of lines of file names, versions and checksums

Key = tuple[str, str]  # a package's name and the checksum of its English description
Sourced = tuple[str, str]  # a text and its source package


@dataclass(frozen=True, slots=True)
class Description:
    """A package's description in one language.

    Attributes:
        summary: The one line.
        paragraphs: The long text, one string per paragraph, without markup.
    """

    summary: str
    paragraphs: tuple[str, ...]


def write_package_descriptions(folder: Path, codes: Sequence[str], most: int) -> dict[str, int]:
    """Fetch the descriptions and write both files.

    Args:
        folder: Where to write; apt's lists go into its sub-folder `apt`.
        codes: ISO 639-1 codes of languages in `LANGUAGES`.
        most: Most texts of one language in `languages.jsonl`.

    Returns:
        Number of texts of each language, and under `pairs` the number of pairs.

    Raises:
        DataRejected: A language is unknown, or apt cannot fetch.
    """
    if unknown := sorted(set(codes) - set(LANGUAGES.values())):
        known = ", ".join(sorted(set(LANGUAGES.values())))
        raise DataRejected(f"there is no language {unknown[0]} here: the choice is {known}")
    names = {"en": "en"} | {name: code for name, code in LANGUAGES.items() if code in codes}
    names |= dict.fromkeys(OTHERS, UNKNOWN)
    files = fetch_index(folder / "apt", list(names))
    stanzas = [stanza for file in files if file.kind == "Packages" for stanza in read_index(file)]
    sources = dict(source_of(stanza) for stanza in stanzas if "Description-md5" in stanza)
    english = read_descriptions((file for file in files if file.language == "en"), "en")
    texts = {code: list[Sourced]() for code in (*codes, UNKNOWN)}
    texts[UNKNOWN] += wordless_lines(stanzas)
    if "en" in codes:
        texts["en"] += texts_of(english, {}, sources)
    for name, code in names.items():
        if name != "en":
            found = read_descriptions((file for file in files if file.language == name), name)
            texts[code] += texts_of(found, english, sources)
    labelled = choose_texts(texts, most)
    pairs = pairs_of(english, sources)
    _write(folder / LANGUAGES_FILE, labelled)
    _write(folder / PAIRS_FILE, pairs)
    return {**Counter(line["label"] for line in labelled), "pairs": len(pairs)}


def wordless_lines(stanzas: Sequence[Stanza]) -> list[Sourced]:
    """Return lines that are in no language, made from the index's fields about files."""
    fields = ("Filename", "Version", "Size", "SHA256")
    whole = [stanza for stanza in stanzas if all(field in stanza for field in fields)]
    lines = [(" ".join(stanza[field] for field in fields), source_of(stanza)[1]) for stanza in whole]
    return sorted(lines, key=lambda line: _order(line[0]))[:_WORDLESS]


def source_of(stanza: Stanza) -> tuple[Key, str]:
    """Return a package's key and its source package, which is the package itself if the index names none."""
    name = stanza["Package"]
    source = stanza.get("Source", name).split(" ")[0]  # a version in brackets may follow
    return (name, stanza.get("Description-md5", "")), source


def read_descriptions(files: Iterable[IndexFile], name: str) -> dict[Key, Description]:
    """Return all descriptions in one of apt's languages."""
    field = f"Description-{name}"
    return {
        (stanza["Package"], stanza["Description-md5"]): parse_description(stanza[field])
        for file in files
        for stanza in read_index(file)
        if field in stanza
    }


def parse_description(field: str) -> Description:
    """Remove the markup of a description: indented lines, with ` .` between paragraphs.

    Lines that are indented further, such as list items, become paragraphs of their own.
    """
    summary, *lines = field.split("\n")
    paragraphs: list[str] = []
    open_paragraph = False
    for line in lines:
        text = line[1:].rstrip()
        if text in ("", "."):
            open_paragraph = False
        elif text.startswith((" ", "\t")):
            paragraphs.append(text.strip())
            open_paragraph = False
        elif open_paragraph:
            paragraphs[-1] = join_lines(paragraphs[-1], text)
        else:
            paragraphs.append(text)
            open_paragraph = True
    return Description(summary.strip(), tuple(paragraphs))


def join_lines(before: str, after: str) -> str:
    """Join two lines with a space, except between characters of scripts without spaces."""
    return before + ("" if _without_spaces(before[-1]) and _without_spaces(after[0]) else " ") + after


def _without_spaces(character: str) -> bool:
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not unicodedata.name(character, "").startswith("HANGUL")


def texts_of(
    found: Mapping[Key, Description], english: Mapping[Key, Description], sources: Mapping[Key, str]
) -> list[Sourced]:
    """Return the texts of a language, each with its source package.

    Parts that equal the English text are left out, since they are not translated.
    """
    texts = []
    for key, description in found.items():
        original = english.get(key)
        known = {original.summary, *original.paragraphs} if original else set()
        kept = [part for part in (description.summary, *description.paragraphs) if part not in known]
        if key in sources and sum(map(len, kept)) >= _SHORTEST:
            texts.append(("\n".join(kept), sources[key]))
    return texts


def choose_texts(texts: Mapping[str, Sequence[Sourced]], most: int) -> list[dict[str, str]]:
    """Remove duplicates, and of large languages all but `most` texts.

    The choice depends only on the texts, so that it does not change with the index.
    """
    languages_of: dict[str, set[str]] = defaultdict(set)
    for code, pairs in texts.items():
        for text, _ in pairs:
            languages_of[text].add(code)
    lines = []
    for code, pairs in texts.items():
        first = {text: source for text, source in reversed(pairs) if len(languages_of[text]) == 1}
        chosen = sorted(first, key=_order)[:most]
        lines += [{"text": text, "label": code, "group": first[text]} for text in chosen]
    return lines


def pairs_of(english: Mapping[Key, Description], sources: Mapping[Key, str]) -> list[dict[str, str]]:
    """Return pairs of summary and long description; of equal long descriptions only one is kept."""
    pairs: dict[str, dict[str, str]] = {}
    for key, description in english.items():
        document = "\n".join(description.paragraphs)
        if key in sources and len(document) >= _SHORTEST and description.summary:
            pair = {"query": description.summary, "document": document, "group": sources[key]}
            pairs.setdefault(document, pair)
    return sorted(pairs.values(), key=lambda pair: _order(pair["document"]))


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _write(path: Path, lines: Iterable[Mapping[str, str]]) -> None:
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(content, encoding="utf-8")

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from training.data import debian_descriptions, debian_index
from training.data.debian_descriptions import (
    Description,
    choose_texts,
    pairs_of,
    parse_description,
    source_of,
    texts_of,
    write_package_descriptions,
)
from training.data.debian_index import IndexFile, fetch_index, parse_stanzas
from training.errors import DataRejected

LISTS: dict[tuple[str, str], str] = {
    ("Packages", ""): (
        "Package: teapot\nSource: kettle (1.2)\nVersion: 1\nSize: 5\nSHA256: ab12\n"
        "Filename: pool/t/teapot.deb\nDescription: short\nDescription-md5: aa\n\n"
        "Package: spoon\nVersion: 2\nSize: 6\nSHA256: cd34\nFilename: pool/s/spoon.deb\nDescription-md5: bb\n"
    ),
    ("Translations", "en"): (
        "Package: teapot\nDescription-md5: aa\nDescription-en: pours tea for everyone\n"
        " A teapot that pours tea\n without spilling any.\n .\n See the manual.\n\n"
        "Package: spoon\nDescription-md5: bb\nDescription-en: stirs\n Stirs what is in a cup.\n"
    ),
    ("Translations", "de"): (
        "Package: teapot\nDescription-md5: aa\nDescription-de: schenkt allen Tee ein\n"
        " Eine Kanne, die Tee einschenkt.\n .\n See the manual.\n\n"
        "Package: spoon\nDescription-md5: bb\nDescription-de: stirs\n Stirs what is in a cup.\n"
    ),
    (
        "Translations",
        "sv",
    ): "Package: spoon\nDescription-md5: bb\nDescription-sv: rör om\n Rör om i en kopp te.\n",
}


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Serve the lists above instead of apt's; returns the languages that were asked for."""
    asked: list[str] = []

    def fetch(folder: Path, languages: list[str]) -> list[IndexFile]:
        asked.extend(languages)
        return [IndexFile(kind, language, folder) for kind, language in LISTS]

    monkeypatch.setattr(debian_descriptions, "fetch_index", fetch)
    monkeypatch.setattr(
        debian_descriptions, "read_index", lambda file: parse_stanzas(LISTS[file.kind, file.language])
    )
    return asked


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_both_files_are_written_from_the_index(index: list[str], tmp_path: Path) -> None:
    counts = write_package_descriptions(tmp_path, ["en", "de"], 100)
    assert counts == {"en": 2, "de": 1, "unknown": 3, "pairs": 2}
    assert index[:2] == ["en", "de"]
    labelled = lines_of(tmp_path / "languages.jsonl")
    german = next(line for line in labelled if line["label"] == "de")
    assert german == {
        "text": "schenkt allen Tee ein\nEine Kanne, die Tee einschenkt.",
        "label": "de",
        "group": "kettle",
    }
    pairs = lines_of(tmp_path / "descriptions.jsonl")
    teapot = next(pair for pair in pairs if pair["group"] == "kettle")
    assert teapot["query"] == "pours tea for everyone"
    assert teapot["document"] == "A teapot that pours tea without spilling any.\nSee the manual."


def test_other_languages_and_lines_without_words_are_unknown(index: list[str], tmp_path: Path) -> None:
    write_package_descriptions(tmp_path, ["de"], 100)
    unknown = [line["text"] for line in lines_of(tmp_path / "languages.jsonl") if line["label"] == "unknown"]
    assert "rör om\nRör om i en kopp te." in unknown
    assert "pool/t/teapot.deb 1 5 ab12" in unknown


def test_a_language_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="no language xx here"):
        write_package_descriptions(tmp_path, ["xx"], 10)


def test_without_apt_it_is_said_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataRejected, match="apt"):
        fetch_index(tmp_path, ["en"])


def test_the_last_line_of_a_failing_apt_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "apt-get"
    script.write_text("#!/bin/sh\necho reading >&2\necho 'E: no mirror answers' >&2\nexit 100\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    monkeypatch.setattr(debian_index, "_HELPER", script)
    with pytest.raises(DataRejected, match="apt-get failed: E: no mirror answers"):
        fetch_index(tmp_path / "lists", ["en"])


def test_the_lists_that_apt_names_are_found_and_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packed = tmp_path / "packages.lz4"
    packed.write_text("Package: a\n", encoding="utf-8")
    rows = f"Packages\t$(LANGUAGE)\t{packed}\nTranslations\tde\t{packed}\nDEP-11\t\t{packed}\n"
    script = tmp_path / "apt-get"
    script.write_text(f"#!/bin/sh\ncase \"$*\" in *indextargets*) printf '{rows}';; esac\n")
    helper = tmp_path / "helper"
    helper.write_text('#!/bin/sh\nexec /bin/cat "$2"\n')
    for program in (script, helper):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian_index, "_HELPER", helper)
    found = fetch_index(tmp_path / "lists", ["de"])
    assert [(file.kind, file.language) for file in found] == [("Packages", ""), ("Translations", "de")]
    assert list(debian_index.read_index(found[0])) == [{"Package": "a"}]


def test_a_package_without_a_source_is_its_own() -> None:
    assert source_of({"Package": "spoon", "Description-md5": "bb"}) == (("spoon", "bb"), "spoon")
    assert source_of({"Package": "a", "Source": "b (2)", "Description-md5": "c"}) == (("a", "c"), "b")


def test_markup_is_taken_off_and_lists_keep_their_lines() -> None:
    field = "summary\n First line\n goes on.\n .\n Points:\n  * one\n  * two\n After."
    description = parse_description(field)
    assert description.paragraphs == ("First line goes on.", "Points:", "* one", "* two", "After.")


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        ("日本語の\n 文章です", "日本語の文章です"),
        ("中文\n English", "中文 English"),
        ("한국어\n 문장", "한국어 문장"),
        ("two\n words", "two words"),
    ],
)
def test_line_breaks_become_spaces_where_a_script_has_spaces(lines: str, joined: str) -> None:
    assert parse_description(f"summary\n {lines}").paragraphs == (joined,)


def test_what_nobody_translated_is_left_out() -> None:
    key = ("a", "1")
    english = {key: Description("same", ("English text as it was.", "More."))}
    half = {key: Description("same", ("Ein Satz, der übersetzt wurde.", "More."))}
    assert texts_of(half, english, {key: "src"}) == [("Ein Satz, der übersetzt wurde.", "src")]
    assert texts_of(english, english, {key: "src"}) == []
    assert texts_of(half, english, {}) == []


def test_texts_are_unique_and_which_stay_does_not_depend_on_their_order() -> None:
    texts = {
        "aa": [("shared", "x"), ("one", "x"), ("one", "y"), ("two", "y")],
        "bb": [("shared", "z"), ("drei", "z")],
    }
    turned = {code: list(reversed(pairs)) for code, pairs in texts.items()}
    chosen = [(line["text"], line["label"]) for line in choose_texts(texts, 10)]
    assert sorted(chosen) == [("drei", "bb"), ("one", "aa"), ("two", "aa")]
    first, second = ([line["text"] for line in choose_texts(some, 1)] for some in (texts, turned))
    assert first == second


def test_equal_long_descriptions_make_one_pair() -> None:
    description = Description("finds", ("A long description of things.",))
    english = {("a", "1"): description, ("b", "1"): description, ("c", "2"): Description("short", ("tiny",))}
    pairs = pairs_of(english, dict.fromkeys(english, "src"))
    assert len(pairs) == 1

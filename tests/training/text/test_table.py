from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.errors import DataRejected
from training.recipes.text_recipe import TextPairsData, TextTableData
from training.text.dataset import read_labelled, read_pairs


def test_a_csv_file_and_json_lines_give_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"Hello, you",good\n"Two\nlines",bad\n', encoding="utf-8-sig")
    lines = '{"text": "Hello, you", "label": "good"}\n{"text": "Two\\nlines", "label": "bad"}\n'
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    tables = [read_labelled(TextTableData(path=tmp_path / name)) for name in ("a.csv", "a.jsonl")]
    assert tables[0].texts == tables[1].texts == ("Hello, you", "Two\nlines")
    assert tables[0].classes == ("bad", "good")
    np.testing.assert_array_equal(tables[0].labels, [1, 0])


def test_columns_can_have_other_names_and_texts_can_be_none_of_the_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body,tone,by\nyes,good,ann\nno,bad,bob\n?,other,bob\n", encoding="utf-8")
    data = TextTableData(path=tmp_path / "a.csv", text="body", label="tone", group="by", unknown="other")
    table = read_labelled(data)
    assert table.groups == ("ann", "bob", "bob")
    np.testing.assert_array_equal(table.labels, [1, 0, -1])
    assert "1 that are none of them" in table.description


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text", "neither .csv nor .jsonl"),
        ("a.csv", "text,label\n", "is empty"),
        ("a.csv", "text,tag\nhi,x\n", "row 1: there is no column label; there is text, tag"),
        ("a.csv", "text,label\nhi,x\nho,x\n", "has 1 labels"),
        ("a.csv", 'text,label\nhi,x\nho," x"\n', "cannot be a label"),
        ("a.jsonl", '{"text": "hi", "label": "x"}\n[1]\n', "row 2: there is no column text; there is none"),
        ("a.jsonl", "{oops\n", "cannot be read"),
        ("a.jsonl", '{"text": "hi", "label": null}\n', "row 1: there is no text under label"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataRejected, match=message):
        read_labelled(TextTableData(path=tmp_path / name))


def test_a_missing_table_and_one_that_is_no_utf8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="there is no file"):
        read_labelled(TextTableData(path=tmp_path / "none.csv"))
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe,x\n")
    with pytest.raises(DataRejected, match="is not UTF-8"):
        read_labelled(TextTableData(path=tmp_path / "a.csv"))


def test_pairs_without_groups_are_each_their_own(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("query,document\na,about a\nb,about b\n", encoding="utf-8")
    table = read_pairs(TextPairsData(path=tmp_path / "p.csv"))
    assert table.queries == ("a", "b")
    assert len(set(table.groups)) == 2

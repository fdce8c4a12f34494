"""Labelled rows from TSV, CSV and JSON Lines; what is wrong in a file is named with its line."""

import gzip
import json
import lzma

import pytest

from bert_jax.data.tables import read_table

ROWS = [{"text": "a good film", "label": "1"}, {"text": "été 東京", "label": "0"}]
OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}


def write(path, text):
    with OPENERS.get(path.suffix, open)(path, "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    return path


def as_text(kind, rows=ROWS):
    if kind == ".jsonl":
        return "".join(json.dumps(row | {"id": i}) + "\n" for i, row in enumerate(rows))
    separator = {".tsv": "\t", ".csv": ","}[kind]
    return "\n".join(separator.join(values) for values in [rows[0].keys(), *(row.values() for row in rows)]) + "\n"


@pytest.mark.parametrize("compression", OPENERS)
@pytest.mark.parametrize("kind", [".tsv", ".csv", ".jsonl"])
def test_the_same_rows_from_every_format(tmp_path, kind, compression):
    """By the name's suffix, compressed or not; the fields asked for, all as text, and where each row stands."""
    path = write(tmp_path / f"data.v1{kind}{compression}", as_text(kind))
    rows = read_table(path, ("label", "text"))
    assert [row.fields for row in rows] == ROWS
    assert [list(row.fields) for row in rows] == [["label", "text"]] * 2
    first = 1 if kind == ".jsonl" else 2  # after the header
    assert [row.place for row in rows] == [f"{path}, line {first + i}" for i in range(2)]


def test_quotes_are_text_in_tsv_and_quoting_in_csv(tmp_path):
    """GLUE's TSV has unbalanced quotes; a CSV field may hold commas, quotes and line breaks."""
    tsv = write(tmp_path / "a.tsv", 'text\tlabel\n"it\t1\r\n5" of "rain", then\t0\n')
    assert [row.fields["text"] for row in read_table(tsv, ("text", "label"))] == ['"it', '5" of "rain", then']
    csv = write(tmp_path / "a.csv", 'text,label\n"a, b",1\n"""so""\ntwo lines",0\nplain,1\n')
    rows = read_table(csv, ("text", "label"))
    assert [row.fields["text"] for row in rows] == ["a, b", '"so"\ntwo lines', "plain"]
    assert rows[2].place == f"{csv}, line 5"


def test_blank_lines_are_no_rows(tmp_path):
    """At the end of a file and between rows; a byte order mark is no part of the first field's name."""
    for name, text in {
        "a.tsv": "\ufefftext\tlabel\n\na\t1\n\n",
        "a.csv": "\ufefftext,label\n\na,1\n\n",
        "a.jsonl": '\n{"text": "a", "label": 1}\n\n',
    }.items():
        assert [row.fields for row in read_table(write(tmp_path / name, text), ("text", "label"))] == [
            {"text": "a", "label": "1"}
        ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "sentence\tlabel\na\t1\n", "line 2: no field 'text'; it has 'sentence', 'label'"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2: no field 'label'; it has 'text'"),
        ("a.tsv", "text\tlabel\na\t1\nb\n", "line 3: 1 fields, but the header has 2"),
        ("a.tsv", "text\tlabel\na\t1\tx\n", "line 2: 3 fields, but the header has 2"),
        ("a.csv", 'text,label\na,1\n"b,0\nc,1\n', "line 4: unexpected end of data"),
        ("a.csv", 'text,label\n"a"b,1\n', "line 2: ',' expected after '\"'"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b",\n', "line 3: not JSON: "),
        ("a.jsonl", '["a", 1]\n', "line 1: a JSON object is wanted, not list"),
        ("a.tsv", "text\tlabel\n", "no rows"),
        ("a.csv", "", "no rows"),
        ("a.jsonl", "", "no rows"),
        ("a.parquet", "x", "the name says no format; one of .tsv, .csv, .jsonl, optionally .gz or .xz"),
        ("a.gz", "x", "the name says no format"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, message):
    """A missing column, a short or long row, unbalanced quotes, bad JSON, no rows, an unknown format."""
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError) as error:
        read_table(path, ("text", "label"))
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_text_that_is_not_utf_8(tmp_path):
    """File, line and byte offset are named."""
    path = tmp_path / "a.tsv"
    path.write_bytes(b"text\tlabel\nok\t1\ncaf\xe9\t1\n")
    with pytest.raises(ValueError, match=r"a\.tsv, line 3: not UTF-8: byte 0xe9 at byte offset 19"):
        read_table(path, ("text", "label"))


def test_a_missing_file(tmp_path):
    """By its name."""
    with pytest.raises(FileNotFoundError, match=r"gone\.tsv: no such file"):
        read_table(tmp_path / "gone.tsv", ("text",))

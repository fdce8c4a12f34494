"""Labelled rows from TSV, CSV and JSON Lines; what is wrong in a file is named with its line; how they are split."""

import gzip
import json
import lzma

import pytest

from bert_jax.data.held_out import draw, source_name
from bert_jax.data.tables import Row, Tables, read_table, usable

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
        ("a.parquet", "x", "the name says no format; one of .tsv, .txt, .csv, .jsonl, optionally .gz or .xz"),
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


def test_the_first_line_is_a_row_where_the_fields_are_named(tmp_path):
    """As CoLA's files have none; the place counts from the first line; JSON Lines have names already."""
    tsv = write(tmp_path / "a.tsv", "x\t1\t\tgood\ny\t0\t*\tbad\n")
    rows = read_table(tsv, ("text", "label"), ("source", "label", "mark", "text"))
    assert [row.fields for row in rows] == [{"text": "good", "label": "1"}, {"text": "bad", "label": "0"}]
    assert rows[0].place == f"{tsv}, line 1"
    with pytest.raises(ValueError, match=r"line 1: 4 fields, but the list of columns has 3"):
        read_table(tsv, ("text",), ("label", "mark", "text"))
    with pytest.raises(ValueError, match="the fields of JSON Lines have names already"):
        read_table(write(tmp_path / "a.jsonl", "{}\n"), ("text",), ("text",))


def test_text_files_are_tables_with_tabs(tmp_path):
    """As the MSR corpus, which MRPC was made from, is called."""
    path = write(tmp_path / "a.txt.gz", '\ufefftext\tlabel\n"a\tb\n')
    assert [row.fields for row in read_table(path, ("text", "label"))] == [{"text": '"a', "label": "b"}]


def test_nothing_is_cut_or_split_but_at_tabs_and_line_feeds(tmp_path):
    """Very long fields, and all else that Unicode takes for the end of a line."""
    text = "a\rb\u2028c\x85d\x0be\x00f " + "g " * 100_000 + "h"
    path = write(tmp_path / "a.tsv", f"text\tlabel\n{text}\t1\r\n \t0\n")
    assert [row.fields for row in read_table(path, ("text", "label"))] == [
        {"text": text, "label": "1"}, {"text": " ", "label": "0"}
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [".tsv", ".csv"])
def test_two_fields_of_one_name(tmp_path, kind):
    """Neither is read for the other: they are told apart by their columns. Names that nobody reads may be the same."""
    text = "label,text,label\n1,a,0\n"
    path = write(tmp_path / f"a{kind}", text.replace(",", "\t") if kind == ".tsv" else text)
    with pytest.raises(ValueError, match=r"no field 'label'; it has 'label \(column 1\)', 'text', 'label \(column 3"):
        read_table(path, ("text", "label"))
    assert read_table(path, ("label (column 3)",))[0].fields == {"label (column 3)": "0"}
    assert read_table(path, ("text",), ("_", "text", "_"))[1].fields == {"text": "a"}


def test_fields_inside_of_fields(tmp_path):
    """`a/b` is the field b of an object, or of each object of a list, as the choices of ARC are. An object itself is no
    text: what is in it is named. A field may have that very name, too."""
    one = {"question": {"stem": "a", "choices": [{"text": "b", "label": "A"}, {"text": 2, "label": "B"}]}, "x/y": "z"}
    path = write(tmp_path / "a.jsonl", json.dumps(one | {"choices": {"text": ["b", "c"], "label": []}}) + "\n")
    columns = ("question/stem", "question/choices/text", "choices/text", "choices/label", "x/y")
    assert list(read_table(path, columns)[0].fields.values()) == ["a", ["b", "2"], ["b", "c"], [], "z"]
    with pytest.raises(ValueError, match=r"line 1: field 'choices' is no text, .*: 'choices/text', 'choices/label'"):
        read_table(path, ("choices",))
    with pytest.raises(ValueError, match=r"line 1: field 'question/choices' is no text, .* 'question/choices/text', "):
        read_table(path, ("question/choices",))
    for gone in ("question/x", "question/choices/x", "x/z", "question/stem/x", "/"):
        with pytest.raises(ValueError, match=f"line 1: no field '{gone}'; it has 'question', 'x/y', 'choices'"):
            read_table(path, (gone,))


def test_text_that_is_not_unicode(tmp_path):
    """JSON can say half a character, which no tokenizer takes: a bad row, with its line, in a text or in a list."""
    rows = [("a", "\ud83d"), ("a", ["b", "\ude00"]), ("b", 1), ("\U0001f600", 1)]
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
    path = str(write(tmp_path / "a.jsonl", "".join(lines)))
    data = Tables(path, (path,), skip_bad_rows=True)
    kept, first = usable(data.train_rows, data.empty_field, True)
    assert texts(kept) == ["b", "\U0001f600"] and "line 1: field 'label' is not Unicode: '\\ud83d'" in first
    with pytest.raises(ValueError, match=r"line 2: field 'label' is not Unicode: '\\ude00'; --data\.skip-bad-rows"):
        usable(data.train_rows[1:], data.empty_field, False)


def test_values_that_are_no_text(tmp_path):
    """Numbers and truth values become text, lists lists of text, null is empty: the field is there, but a bad one."""
    path = write(tmp_path / "a.jsonl", '{"text": 1.5, "label": ["a", 2]}\n{"text": null, "label": true}\n')
    rows = read_table(path, ("text", "label"))
    assert [row.fields for row in rows] == [{"text": "1.5", "label": ["a", "2"]}, {"text": "", "label": "True"}]
    data = Tables(str(path))
    assert [data.empty_field(row) for row in rows] == [None, "field 'text' is empty"]
    assert data.empty_field(rows[1], ("label",)) is None


# ---- Tables ----------------------------------------------------------------------------------------------------------


def table(path, count, start=0):
    """A file of rows `t<i>` with label i modulo 2."""
    return str(write(path, "text\tlabel\n" + "".join(f"t{i}\t{i % 2}\n" for i in range(start, start + count))))


def texts(rows):
    return [row.fields["text"] for row in rows]


def test_a_share_is_held_out_where_nothing_else_is_given(tmp_path):
    """Drawn at random, the same in every process, another with another seed; every row is in one of the two parts."""
    path = table(tmp_path / "a.tsv", 40)
    data = Tables(path, valid_share=0.2)
    held_out = texts(data.valid_rows["valid"])
    assert len(held_out) == 8 and held_out != texts(read_table(path, ("text",)))[-8:]
    assert sorted(texts(data.train_rows) + held_out) == sorted(f"t{i}" for i in range(40))
    assert texts(Tables(path, valid_share=0.2).valid_rows["valid"]) == held_out
    assert texts(Tables(path, valid_share=0.2, draw_seed=1).valid_rows["valid"]) != held_out
    assert len(Tables(table(tmp_path / "b.tsv", 3)).valid_rows["valid"]) == 1  # never none
    with pytest.raises(ValueError, match=r"c\.tsv: 1 rows are too few to hold some out: give valid"):
        Tables(table(tmp_path / "c.tsv", 1)).train_rows  # noqa: B018


def test_the_names_of_held_out_sources(tmp_path):
    """One is `valid`, several have those of their files, which must differ; all training rows are trained on."""
    train, a, b = table(tmp_path / "train.tsv", 4), table(tmp_path / "a.tsv", 2), table(tmp_path / "b.v1.tsv", 3)
    assert {name: len(rows) for name, rows in Tables(train, (a,)).valid_rows.items()} == {"valid": 2}
    data = Tables(train, (a, b))
    assert {name: len(rows) for name, rows in data.valid_rows.items()} == {"a": 2, "b.v1": 3}
    assert len(data.train_rows) == 4
    (tmp_path / "other").mkdir()
    for same in (table(tmp_path / "other/a.tsv", 2), a):
        with pytest.raises(ValueError, match="the names of the held-out sources are the same"):
            Tables(train, (a, same)).valid_rows  # noqa: B018
    assert source_name("tfds:glue/mnli@validation_matched") == "validation_matched"


def test_one_source_after_the_other(tmp_path):
    """`a+b`, with places in each; a file with a plus in its name is that file."""
    a, b = table(tmp_path / "a.tsv", 2), table(tmp_path / "b.tsv", 2, start=2)
    rows = Tables(f"{a}+{b}", (a,)).train_rows
    assert texts(rows) == ["t0", "t1", "t2", "t3"]
    assert rows[2].place == f"{b}, line 2"
    plus = table(tmp_path / "c++.tsv", 3)
    assert len(Tables(plus, (a,)).train_rows) == 3


def test_limits(tmp_path):
    """So many rows of training and of each held-out source; more than there are, or fewer than none, is an error."""
    train, a = table(tmp_path / "train.tsv", 50), table(tmp_path / "a.tsv", 30)
    data = Tables(train, (a,), train_limit=20, valid_limit=10)
    assert len(set(texts(data.train_rows))) == 20 and texts(data.train_rows) != [f"t{i}" for i in range(20)]
    assert len(set(texts(data.valid_rows["valid"]))) == 10 and len(data.all_train_rows) == 50
    with pytest.raises(ValueError, match=r"valid_limit 31: .*a\.tsv has only 30"):
        Tables(train, (a,), valid_limit=31).valid_rows  # noqa: B018
    with pytest.raises(ValueError, match="train_limit -1: must be at least 1, or 0 for all"):
        Tables(train, train_limit=-1)
    with pytest.raises(ValueError, match=r"valid_share 1\.0: must be above 0 and below 1"):
        Tables(train, valid_share=1.0)
    assert draw([1, 2, 3], 0, 0, "limit", "here") == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.tsv", "text\tlabel\na\t1\nb\nc\t\t\n", "line 3: 1 fields, but the header has 2"),
        ("a.csv", "text,label\na,1\nb\n,,\n", "line 3: 1 fields, but the header has 2"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text\n[1]\n', "line 2: not JSON"),
        ("a.tsv", "text\tlabel\na\t1\n \t1\nb\t\n", "line 3: field 'text' is empty"),
    ],
)
def test_bad_rows_are_left_out_and_counted_if_asked(tmp_path, name, text, fault):
    """Rows that cannot be read, with too few or too many fields, with an empty text or label: else they are an error.
    The note names the source, how many, and the first."""
    path = str(write(tmp_path / name, text))
    data = Tables(path, (path,), skip_bad_rows=True)
    kept, first = usable(data.train_rows, data.empty_field, data.skip_bad_rows)
    assert texts(kept) == ["a"] and first.startswith(f"{path}, {fault}")
    notes = [f"2 of 3 rows of {source} are left out, the first: {first}" for source in ("train", "valid")]
    assert data.notes(data.empty_field) == notes
    data = Tables(path, (path,))
    with pytest.raises(ValueError, match=fault):
        usable(data.train_rows, data.empty_field, data.skip_bad_rows)


def test_usable():
    """Without a reason nothing is left out and nothing said; where every row is bad, there is nothing to train on."""
    rows = [Row({"text": "a"}, "a, line 1"), Row({"text": ""}, "a, line 2")]
    assert usable(rows, lambda row: None, False) == (rows, "")
    with pytest.raises(ValueError, match=r"^a, line 2: empty; --data\.skip-bad-rows leaves such rows out"):
        usable(rows, lambda row: None if row.fields["text"] else "empty", False)
    with pytest.raises(ValueError, match="every row is bad; a, line 1: bad"):
        usable(rows, lambda row: "bad", True)


def test_what_labels_are_found_in(tmp_path):
    """All rows of the training file, held out or not; but no row of a file that is given to be held out."""
    path = table(tmp_path / "a.tsv", 10)
    assert sorted(texts(Tables(path).label_rows)) == [f"t{i}" for i in range(10)]
    assert texts(Tables(path, (table(tmp_path / "b.tsv", 3, start=10),), train_limit=2).label_rows) == [
        f"t{i}" for i in range(10)
    ]

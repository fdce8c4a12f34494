"""Parsers of data sets and texts: from any bytes come rows or an error that names the file, and nothing else."""

import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from bert_jax.data.conll import TaggedFiles, read_sentences
from bert_jax.data.corpus import Corpus
from bert_jax.data.documents import TextFiles
from bert_jax.data.squad import SquadFiles, read_questions
from bert_jax.data.tables import Tables, read_table, usable
from bert_jax.training.log import read_metrics
from tests.faults.mutations import EXAMPLES, changed, fuzz, mutated

TSV = b'sentence\tlabel\nA good film.\t1\nNot "so" good\t0\n\xe5\x8c\x97\xe4\xba\xac\t1\n'
CSV = b'text,label\n"A good, long film.",1\n"Said ""no""\nagain",0\n'
JSONL = b'{"text": "good", "label": "1", "in": {"side": ["a", "b"]}}\n\n{"text": null, "label": 0, "in": []}\n'
ROWS = [{"text": "good", "label": "1", "in": {"side": ["a", "b"]}}, {"words": ["EU", "x"], "tags": ["S-ORG", "O"]}]
CONLL = b"-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP I-PER\n"
CONLLU = (
    b"# newdoc id = a\n# text = It's\n1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_\n1\tIt\tit\tPRON\tPRP\t_\t2\tnsubj\t_\t_\n"
    b"2\t's\tbe\tAUX\tVBZ\t_\t0\troot\t_\t_\n2.1\tx\t_\tX\t_\t_\t_\t_\t_\t_\n\n1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_\n"
)
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Normans",
            "paragraphs": [
                {
                    "context": "The Normans came from Denmark.",
                    "qas": [
                        {"id": "1", "question": "Whence?", "answers": [{"text": "Denmark", "answer_start": 22}]},
                        {"id": 2, "question": "When?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        },
        {"paragraphs": [{"context": "b", "qas": []}]},
    ],
}
WIKI = (
    b'<doc id="1" url="u" title="A &amp; B">\nA & B\n\nFirst line.\nSecond &lt;i&gt;.\n</doc>\n<doc>\nNext.\n</doc>\n'
)
PLAIN = b"A first line\nof a paragraph.\n\nA second one.\n"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@EXAMPLES
@pytest.mark.parametrize(
    ("name", "contents", "header"),
    [
        ("rows.tsv", mutated([TSV]), ()),
        ("rows.txt", mutated([TSV]), ("text", "label")),
        ("rows.csv", mutated([CSV, TSV]), ()),
        ("rows.csv", mutated([CSV]), ("text", "label")),
        ("rows.jsonl", mutated([JSONL]) | changed(ROWS), ()),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_tables(tmp_path, name, contents, header, skip, examples):
    """TSV, CSV and JSON Lines, read strictly and with bad rows left out."""
    path = tmp_path / name
    columns = ("sentence", "label") if name == "rows.tsv" else ("text", "label")
    tables = Tables(str(path), skip_bad_rows=skip)

    def parse(content: bytes) -> None:
        rows = read_table(write(path, content), columns, header, keep_faults=skip)
        for row in usable(rows, lambda row: tables.empty_field(row, columns), skip)[0]:
            json.dumps(row.fields).encode("utf-8")

    fuzz(parse, contents, examples, path)


@EXAMPLES
def test_nested_fields(tmp_path, examples):
    """`a/b` of JSON Lines."""
    path = tmp_path / "rows.jsonl"
    fuzz(
        lambda content: read_table(write(path, content), ("in/side",)),
        mutated([JSONL]) | changed(ROWS),
        examples,
        path,
    )


@EXAMPLES
@pytest.mark.parametrize(
    ("name", "scheme", "contents"),
    [
        ("tags.conll", "bio", mutated([CONLL])),
        ("tags.conll", "iob1", mutated([CONLL])),
        ("tags.conllu", "plain", mutated([CONLLU])),
        ("tags.jsonl", "iobes", mutated([json.dumps(ROWS[1]).encode()]) | changed(ROWS[1:])),
    ],
)
def test_tagged_sentences(tmp_path, name, contents, scheme, examples):
    """CoNLL columns, CoNLL-U and lists, with each way of marking entities."""
    path = tmp_path / name
    files = TaggedFiles(str(path), scheme=scheme)

    def parse(content: bytes) -> None:
        write(path, content)
        for sentence in files.usable(read_sentences(path, scheme=scheme)):
            assert len(sentence.words) == len(sentence.tags) > 0

    fuzz(parse, contents, examples, path)


@EXAMPLES
def test_squad(tmp_path, examples):
    """Mangled text, and JSON of another shape."""
    path = tmp_path / "squad.json"

    def parse(content: bytes) -> None:
        read_questions(write(path, content))
        assert SquadFiles(str(path), (str(path),), unanswerable=True).train_rows

    fuzz(parse, mutated([json.dumps(SQUAD).encode()]) | changed([SQUAD]), examples, path)


@EXAMPLES
@pytest.mark.parametrize("format", ["auto", "plain", "sentences", "wikiextractor"])
@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_texts(tmp_path, format, ending, pack, examples):
    """Plain text and WikiExtractor's, also in archives that are damaged."""
    path = tmp_path / f"text.txt{ending}"

    def parse(content: bytes) -> None:
        source = TextFiles([write(path, content)], format)
        assert all(any(document.paragraphs) for document in source)
        source.describe()

    inside = mutated([WIKI, PLAIN])
    contents = inside.map(pack) | mutated([pack(WIKI), pack(PLAIN)]) if ending else inside
    fuzz(parse, contents, examples, path)


@EXAMPLES
def test_corpus_card(tiny_corpus, tmp_path, examples):
    """The card of a corpus whose shards are whole."""
    for path in tiny_corpus.glob("*.*"):
        (tmp_path / path.name).symlink_to(path)
    card = json.loads((tiny_corpus / "card.json").read_text())
    (tmp_path / "card.json").unlink()

    def parse(content: bytes) -> None:
        write(tmp_path / "card.json", content)
        for split in ("train", "valid"):
            corpus = Corpus(tmp_path, split)
            if len(corpus):
                corpus.lengths_of(np.array([0, len(corpus) - 1]))
                corpus.read(np.array([0, len(corpus) - 1]))

    fuzz(parse, mutated([json.dumps(card).encode()]) | changed([card]), examples, tmp_path)


@EXAMPLES
def test_metrics(tmp_path, examples):
    """The log of a run."""
    path = tmp_path / "metrics.jsonl"
    line = {"step": 1, "time": 1.5, "train/loss": None}
    contents = mutated([json.dumps(line).encode() * 1 + b"\n" + b'{"step": 2}\n']) | st.lists(
        changed([line]), max_size=3
    ).map(b"\n".join)
    fuzz(lambda content: read_metrics(write(path, content)), contents, examples, path)

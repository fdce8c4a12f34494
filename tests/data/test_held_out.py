"""What is held out of training: the same draws for the same seeds in every version, and names that collide nowhere."""

import json

import pytest

from bert_jax.data.conll import TaggedFiles
from bert_jax.data.held_out import source_name, source_parts
from bert_jax.data.squad import SquadFiles
from bert_jax.data.tables import Tables


def rows(folder):
    (folder / "a.tsv").write_text("text\tlabel\n" + "".join(f"{i}\t{i % 2}\n" for i in range(20)))
    return Tables, str(folder / "a.tsv")


def sentences(folder):
    """In documents of two."""
    (folder / "a.conll").write_text("".join("-DOCSTART- O\n\n" * (i % 2 == 0) + f"{i} O\n\n" for i in range(20)))
    return TaggedFiles, str(folder / "a.conll")


def questions(folder):
    """In articles of two."""
    asked = [{"id": str(i), "question": "a", "answers": [{"text": "a", "answer_start": 0}]} for i in range(20)]
    data = [
        {"title": str(i), "paragraphs": [{"context": "a", "qas": asked[2 * i : 2 * i + 2]}]} for i in range(10)
    ]  # fmt: skip
    (folder / "a.json").write_text(json.dumps({"data": data}))
    return SquadFiles, str(folder / "a.json")


def drawn(data):
    """The numbers of what is trained on and of what is held out."""
    if isinstance(data, TaggedFiles):
        return [[int(s.words[0]) for s in part] for part in (data.train_sentences, data.valid_sentences["valid"])]
    name = "text" if isinstance(data, Tables) else "id"
    return [[int(row.fields[name]) for row in part] for part in (data.train_rows, data.valid_rows["valid"])]


@pytest.mark.parametrize(
    ("made", "seed", "train", "held_out"),
    [
        (rows, 0, [3, 14, 5, 13], [6, 2]),
        (rows, 3, [13, 19, 10, 1], [18, 16]),
        (sentences, 0, [2, 15, 3, 14], [12, 8]),
        (sentences, 3, [11, 17, 9, 1], [19, 18]),
        (questions, 0, [2, 15, 3, 14], [12, 8]),
        (questions, 3, [11, 17, 9, 1], [19, 18]),
    ],
)
def test_draws_stay_what_they_were(tmp_path, made, seed, train, held_out):
    """A record names its examples by a seed only: with other draws a run could not be repeated, and what an earlier one
    held out would be trained on."""
    kind, path = made(tmp_path)
    limits = {"train_limit": 4, "valid_limit": 2, "draw_seed": seed}
    assert drawn(kind(path, valid_share=0.2, **limits)) == [train, held_out]
    first = {0: [4, 19, 6, 2], 3: [16, 12, 18, 8]}[seed]
    assert drawn(kind(path, (path,), **limits)) == [first, first[:2]]


@pytest.mark.parametrize("made", [rows, sentences, questions])
def test_a_share_that_leaves_nothing(tmp_path, made):
    """Of twenty rows, or ten documents or articles, 0.99 is all: an error, not a training set of nothing."""
    kind, path = made(tmp_path)
    data = kind(path, valid_share=0.99)
    with pytest.raises(ValueError, match="are too few to hold some out: give valid"):
        drawn(data)


def test_the_parts_of_a_source():
    """A plus joins files, or TFDS data sets each with its own plus; very many files are no path that is too long."""
    assert source_parts("a.tsv+b.tsv") == ["a.tsv", "b.tsv"]
    assert source_parts("tfds:x@a+b+tfds:y@c") == ["tfds:x@a+b", "tfds:y@c"]
    many = [f"file{i}.tsv" for i in range(1000)]
    assert source_parts("+".join(many)) == many


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("x/a.v1.tsv.gz", "a.v1"),
        ("x/eng.testa", "eng.testa"),
        ("tfds:glue/mnli@validation_matched", "validation_matched"),
        ("x/a.tsv+y/b.csv", "a+b"),
        ("tfds:glue/mnli@a+b+tfds:glue/mnli@c", "a+b+c"),
    ],
)
def test_names(source, name):
    """Of files with predictions: no folder is in them, of whatever part of a source."""
    assert source_name(source) == name


def test_no_held_out_source_is_called_as_training(tmp_path):
    """Its metrics would be taken for those of training. A single one is called valid, whatever its file is."""
    kind, path = rows(tmp_path)
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text((tmp_path / "a.tsv").read_text())
    train, dev = (str(tmp_path / name) for name in ("train.tsv", "dev.tsv"))
    with pytest.raises(ValueError, match="a held-out source cannot be called train"):
        _ = kind(path, (train, dev)).valid_rows
    assert list(kind(path, (train,)).valid_rows) == ["valid"]

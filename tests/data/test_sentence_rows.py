"""Rows full of sentences: every token once and in order, whole sentences, documents told apart, as full as can be."""

import json
import shutil

import numpy as np
import pytest

from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.data.sentence_rows import Row, RowPacker, sentence_rows
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.tasks.pretraining import Pretraining
from tests.data.test_corpus import TOKENIZER, contents, documents, run_tool
from tests.data.test_instances import stored

FULL = CorpusConfig(max_seq_length=48, dupe_factor=1, short_seq_prob=0.0, rows="full-sentences")


def rows_of(store, max_seq_length, across=True, first=0, last=None):
    last = len(store.documents) - 1 if last is None else last
    return list(sentence_rows(store, first, last, max_seq_length=max_seq_length, across_documents=across))


def test_two_documents_by_hand():
    """A row takes sentences as long as they fit with the separator between documents, and no longer."""
    store = stored([4, 3, 5], [2, 6], [1])  # 0-4-7-12, 12-14-20, 20-21
    # Ten tokens: 4 + 3, where 5 more do not fit; 5 + separator + 2, where 6 more do not; 6 + separator + 1.
    assert rows_of(store, 12) == [Row(((0, 7),)), Row(((7, 12), (12, 14))), Row(((14, 20), (20, 21)))]
    # Seven: 5 + 2 would fit without the separator.
    assert rows_of(store, 9) == [
        Row(((start, stop),)) for start, stop in [(0, 7), (7, 12), (12, 14), (14, 20), (20, 21)]
    ]
    assert rows_of(store, 12, across=False) == [Row(((0, 7),)), Row(((7, 12),)), Row(((12, 20),)), Row(((20, 21),))]


def test_a_sentence_longer_than_a_row():
    """It fills rows of its own, no token is lost, and what is left of it begins a row that others join."""
    store = stored([2, 11, 1], [1])
    found = rows_of(store, 6)
    assert found == [Row(((0, 2),)), Row(((2, 6),), True), Row(((6, 10),), True), Row(((10, 14),)), Row(((14, 15),))]


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("max_seq_length", [6, 17, 64])
def test_every_token_once_and_in_order(max_seq_length, across):
    """Over random documents: the parts of the rows are the text; parts are of one document each, and neighbours in a
    row of two; rows begin and end between sentences, but inside of one that is longer; the next sentence would not have
    fitted."""
    rng = np.random.default_rng(max_seq_length)
    store = stored(*[rng.integers(1, 12, rng.integers(1, 9)).tolist() for _ in range(60)])
    ends_of_documents = set(store.sentences[store.documents].tolist())
    ends_of_sentences = store.sentences.tolist()
    found, most = rows_of(store, max_seq_length, across), max_seq_length - 2
    parts = [part for row in found for part in row.parts]
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])] and parts[-1][1] == len(store.tokens)
    for row, after in zip(found, [*found[1:], None], strict=True):
        length = sum(stop - start for start, stop in row.parts) + len(row.parts) - 1
        assert 0 < length <= most and (across or len(row.parts) == 1)
        for start, stop in row.parts:
            assert not any(start < end < stop for end in ends_of_documents)
        assert all(stop in ends_of_documents for _, stop in row.parts[:-1])
        stop = row.parts[-1][1]
        assert row.truncated == (stop not in ends_of_sentences)
        if after is not None and not row.truncated and (across or stop not in ends_of_documents):
            following = min(end for end in ends_of_sentences if end > stop) - stop
            assert length + (stop in ends_of_documents) + following > most


def test_a_part_of_the_documents():
    """A shard has the rows of its own documents."""
    store = stored([4, 3], [2, 6], [1])
    assert rows_of(store, 32, first=1, last=3) == [Row(((7, 15), (15, 16)))]


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_record(dtype):
    """`[CLS] part [SEP] part [SEP]` behind label 0 and the length of the row."""
    record = RowPacker(stored([5, 5], dtype=dtype), 101, 102)(Row(((1, 3), (6, 9))))
    assert np.frombuffer(record[:4], "<u2").tolist() == [0, 8]
    assert np.frombuffer(record[4:], dtype).tolist() == [101, 1, 2, 102, 6, 7, 8, 102]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("rows") / "corpus"
    build_corpus(documents(), TOKENIZER, output, FULL, workers=1)
    return output


def test_corpus_of_rows(folder):
    """What is read: one segment, `[CLS]` first, `[SEP]` last and between documents, the text in order between them;
    rows are full but for less than a sentence."""
    corpus = Corpus(folder)
    batch = corpus.read(np.arange(len(corpus)))
    assert not corpus.has_pairs and not batch["segments"].any() and not batch["pair_label"].any()
    text, separators = [], 0
    for tokens, length in zip(batch["tokens"], batch["lengths"], strict=True):
        row = tokens[:length]
        assert (
            row[0] == TOKENIZER.cls_id and row[-1] == TOKENIZER.sep_id and (tokens[length:] == TOKENIZER.pad_id).all()
        )
        separators += np.count_nonzero(row[1:-1] == TOKENIZER.sep_id)
        text += [token for token in row[1:-1].tolist() if token != TOKENIZER.sep_id]
    wanted = TOKENIZER.encode_batch([paragraph for document in documents() for paragraph in document.paragraphs])
    assert text == np.concatenate(wanted).tolist()
    assert 0 < separators <= 39  # of documents, but for those that end with a row
    assert (batch["lengths"][:-1] > 48 - 11).all()  # a sentence has ten tokens, a separator one
    card = corpus.card["splits"]["train"]
    assert card["mean_length"] == pytest.approx(batch["lengths"].mean()) and card["truncated"] == 0
    assert corpus.card["rows"] == "full-sentences" and corpus.card["warnings"] == []


def test_bytes_do_not_depend_on_workers(folder, tmp_path):
    """As those of pairs."""
    build_corpus(documents(), TOKENIZER, tmp_path / "two", FULL, workers=2)
    assert contents(tmp_path / "two") == contents(folder)


def test_rows_of_one_document(tmp_path):
    """A row ends with its document; a single sentence of one token is a row."""
    config = CorpusConfig(48, 1, 0.0, rows="doc-sentences")
    build_corpus(
        [Document(["w1"], True), Document(["w2 w3", "w4"], True)], TOKENIZER, tmp_path / "c", config, workers=1
    )
    batch = Corpus(tmp_path / "c").read(np.arange(2))
    assert batch["lengths"].tolist() == [3, 5] and np.count_nonzero(batch["tokens"] == TOKENIZER.sep_id) == 2


@pytest.mark.parametrize("settings", [{"dupe_factor": 2}, {"short_seq_prob": 0.1}])
def test_settings(settings):
    """What would have no effect is refused, with what to do."""
    with pytest.raises(ValueError, match="set dupe_factor to 1 and short_seq_prob to 0"):
        CorpusConfig(**{"dupe_factor": 1, "short_seq_prob": 0.0, "rows": "full-sentences"} | settings)


def test_next_sentences_need_pairs(folder):
    """NSP over rows without pairs, whose labels would all be 0, is an error before anything is compiled."""
    encoder = Bert(vocab_size=60, num_layers=1, width=8, num_heads=1, mlp_width=8)
    task = Pretraining(folder)
    train = task.train(TOKENIZER)
    assert task.baselines(train, train).keys() == {"mlm/loss", "mlm/accuracy"}
    assert task.prepare(learner := Multitask(encoder, {"mlm": Mlm()})) is learner
    with pytest.raises(ValueError, match="rows of full-sentences and no pairs of segments, which the objective 'nsp'"):
        task.prepare(Multitask(encoder, {"mlm": Mlm(), "nsp": Nsp()}))


def test_a_damaged_record(folder, tmp_path):
    """A card that says pairs of rows, and the other way round, is found with the first record."""
    shutil.copytree(folder, tmp_path / "c")
    card = json.loads((tmp_path / "c/card.json").read_text())
    (tmp_path / "c/card.json").write_text(json.dumps(card | {"rows": "pairs"}))
    with pytest.raises(ValueError, match="its header is impossible"):
        Corpus(tmp_path / "c").read(np.arange(2))
    (tmp_path / "c/card.json").write_text(json.dumps(card | {"rows": "columns"}))
    with pytest.raises(ValueError, match="rows is 'columns'"):
        Corpus(tmp_path / "c")


def test_tool(tmp_path, monkeypatch, capsys):
    """`--rows full-sentences` from the command line; the table has nothing of next sentences."""
    TOKENIZER.save(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text("W1 w2. W3 w4. W5.\n\nW6 w7. W8 w9.\n")
    arguments = [
        tmp_path / "a.txt",
        "--tokenizer",
        tmp_path / "tokenizer",
        "--output",
        tmp_path / "c",
        "--workers",
        "1",
    ]
    settings = ["--rows", "full-sentences", "--dupe-factor", "1", "--short-seq-prob", "0"]
    assert run_tool(monkeypatch, *arguments, *settings) == 0
    shown = capsys.readouterr().out
    assert "full-sentences" in shown and "random next" not in shown and "warning" not in shown
    assert Corpus(tmp_path / "c").card["splits"]["train"]["instances"] == 1

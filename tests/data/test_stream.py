"""Rows of a stream: all full, every token once and in order, a separator behind each document and nowhere else."""

from itertools import pairwise

import numpy as np
import pytest

from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.data.instances import HEADER_BYTES
from bert_jax.data.stream import StreamPacker, stream_rows
from bert_jax.text.bpe import END_OF_TEXT
from bert_jax.text.training import train_bpe
from tests.data.test_instances import stored

SEPARATOR = 9999


def ids_of(store, max_seq_length):
    """The ids of each row, by way of its record."""
    pack = StreamPacker(store, SEPARATOR)
    records = map(pack, stream_rows(store, 0, len(store.documents) - 1, max_seq_length=max_seq_length))
    found = []
    for record in records:
        header, ids = np.frombuffer(record[:HEADER_BYTES], "<u2"), np.frombuffer(record[HEADER_BYTES:], "<u2")
        assert header.tolist() == [0, len(ids)]
        found.append(ids.tolist())
    return found


def test_by_hand():
    """Documents of 5, 3, 4 and 2 tokens in rows of 4: one that ends with its row leaves the separator to the next."""
    store, end = stored([2, 3], [3], [4], [2]), SEPARATOR
    assert ids_of(store, 4) == [[0, 1, 2, 3], [4, end, 5, 6], [7, end, 8, 9], [10, 11, end, 12]]  # two are left over
    assert ids_of(store, 6) == [[0, 1, 2, 3, 4, end], [5, 6, 7, end, 8, 9], [10, 11, end, 12, 13, end]]
    assert ids_of(store, 5) == [[0, 1, 2, 3, 4], [end, 5, 6, 7, end], [8, 9, 10, 11, end], [12, 13, end]]


@pytest.mark.parametrize("length", [5, 16, 33])
def test_of_any_documents(length):
    """The rows one after the other are the documents, each with its separator, but for one or two tokens at the end."""
    rng = np.random.default_rng(length)
    store = stored(*[rng.integers(1, 30, rng.integers(1, 5)).tolist() for _ in range(40)])
    found = ids_of(store, length)
    assert all(len(row) == length for row in found[:-1]) and 3 <= len(found[-1]) <= length
    ends = store.sentences[store.documents]
    whole = [i for first, last in pairwise(ends) for i in [*range(first, last), SEPARATOR]]
    joined = [i for row in found for i in row]
    assert joined == whole[: len(joined)] and len(whole) - len(joined) < 3


def test_a_corpus(tmp_path):
    """Built, it is read as any other: rows of one segment that begin and end anywhere."""
    texts = ["al am an " * 9, "bl bm", "cl " * 20]
    tokenizer = train_bpe(texts, vocab_size=262, specials=(END_OF_TEXT,))
    config = CorpusConfig(max_seq_length=16, dupe_factor=1, short_seq_prob=0.0, rows="stream")
    card = build_corpus([Document([text]) for text in texts], tokenizer, tmp_path / "corpus", config, workers=1)
    corpus = Corpus(tmp_path / "corpus")
    batch = corpus.read(np.arange(len(corpus)))
    joined = np.concatenate([row[:n] for row, n in zip(batch["tokens"], batch["lengths"], strict=True)])
    whole = [np.append(ids, tokenizer.sep_id) for ids in tokenizer.encode_batch([text.strip() for text in texts])]
    whole = np.concatenate(whole)
    np.testing.assert_array_equal(joined, whole[: len(joined)])
    assert len(whole) - len(joined) < 3 and not batch["segments"].any() and not batch["pair_label"].any()
    assert card["warnings"] == []

"""Labelled texts as arrays: special tokens, segments, padding, truncation."""

import numpy as np

from bert_jax.data.features import Features, encode_texts
from bert_jax.text.wordpiece import WordPiece

# [PAD] is not 0 here, so that padding with 0 by accident shows.
TOKENIZER = WordPiece(["x", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "a", "b", "c", "d"])
PAD, CLS, SEP = TOKENIZER.pad_id, TOKENIZER.cls_id, TOKENIZER.sep_id
A, B, C, D = range(6, 10)


def features_of(texts, labels, max_length):
    encodings, cut = encode_texts(texts, TOKENIZER, max_length)
    return Features(encodings, {"label": np.array(labels, np.int32)}, TOKENIZER, max_length, truncated=cut)


def test_single_texts_are_padded_and_cut():
    """[CLS] a [SEP], right-padded with [PAD]; a long text loses its end and keeps [SEP]; an empty one is no error."""
    features = features_of([("a b",), ("a b c d a b",), ("",)], [1, 0, 1], max_length=6)
    batch = features.read(np.array([0, 1, 2]))
    assert batch["tokens"].tolist() == [[CLS, A, B, SEP, PAD, PAD], [CLS, A, B, C, D, SEP], [CLS, SEP] + 4 * [PAD]]
    assert batch["lengths"].tolist() == [4, 6, 2]
    assert (batch["segments"] == 0).all()
    assert len(features) == 3 and features.max_length == 6


def test_pairs_have_two_segments_and_the_longer_is_cut():
    """[CLS] a [SEP] b [SEP]; segment 1 from b on, padding 0; the longer text loses its end first."""
    features = features_of([("a", "b"), ("a b", "c c c c c")], [0, 1], max_length=8)
    batch = features.read(np.array([0, 1]))
    assert batch["tokens"].tolist() == [[CLS, A, SEP, B, SEP, PAD, PAD, PAD], [CLS, A, B, SEP, C, C, C, SEP]]
    assert batch["segments"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert batch["lengths"].tolist() == [5, 8]


def test_a_batch_has_the_contracted_arrays():
    """Names, dtypes and order as asked for, repeats included."""
    features = features_of([("a",), ("b",), ("c",)], [2, 0, 1], max_length=4)
    batch = features.read(np.array([2, 0, 2]))
    assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
        "tokens": ("int32", (3, 4)),
        "segments": ("int32", (3, 4)),
        "lengths": ("int32", (3,)),
        "label": ("int32", (3,)),
        "example": ("uint32", (3,)),
    }
    assert batch["example"].tolist() == [2, 0, 2] and batch["label"].tolist() == [1, 2, 1]
    assert batch["tokens"][:, 1].tolist() == [C, A, C]


def test_cut_rows_are_counted():
    """Those that lost a token, not those that just fit: 2 and 1 of the texts and pairs have 4 tokens too many or 1."""
    assert features_of([("a b",), ("a b c d",), ("a b c d a b c d",), ("a b c d a",)], 4 * [0], 6).truncated == 2
    assert features_of([("a", "b"), ("a b", "c d"), ("a", "b c d")], 3 * [0], 6).truncated == 2


def test_several_rows_of_an_example():
    """They follow each other, in the order of the examples asked for, each with its own number and target."""
    encodings, _ = encode_texts([("a", "b"), ("a", "c"), ("b", "c"), ("b", "d")], TOKENIZER, 6)
    features = Features(encodings, {"label": np.array([1, 1, 0, 0])}, TOKENIZER, 6, rows_each=2)
    assert len(features) == 2
    batch = features.read(np.array([1, 0]))
    assert batch["tokens"][:, [1, 3]].tolist() == [[B, C], [B, D], [A, B], [A, C]]
    assert batch["example"].tolist() == [2, 3, 0, 1] and batch["label"].tolist() == [0, 0, 1, 1]
    lines = features.preview(TOKENIZER, examples=1)
    assert [line for line in lines if line.startswith("example")] == [
        "example 0: [CLS] a [SEP] b [SEP]",
        "example 0: [CLS] a [SEP] c [SEP]",
    ]


def test_targets_of_any_shape():
    """One entry a row, whatever its axes and type."""
    encodings, _ = encode_texts([("a",), ("b",), ("c",)], TOKENIZER, 4)
    targets = {"targets": np.eye(3, dtype=np.float32), "target": np.float32([0.5, 1, 2])}
    batch = Features(encodings, targets, TOKENIZER, 4).read(np.array([2, 1]))
    assert batch["targets"].tolist() == [[0, 0, 1], [0, 1, 0]] and batch["target"].tolist() == [2, 1]
    assert batch["targets"].dtype == batch["target"].dtype == np.float32


def test_the_preview_shows_what_the_model_reads():
    """The pieces without padding, what is wanted, the share that was cut; long rows are abbreviated."""
    features = features_of([("a zz",), ("a b c d a b c d",)], [1, 0], 6)
    assert features.preview(TOKENIZER) == [
        "example 0: [CLS] a [UNK] [SEP]",
        "  4 tokens, label 1",
        "example 1: [CLS] a b c d [SEP]",
        "  6 tokens, label 0",
        "50.0% of the rows were cut to 6 tokens; mean length 5.0",
    ]
    long = features_of([("a " * 300,)], [0], 302)
    assert len(long.preview(TOKENIZER)[0]) == len("example 0: ") + 300 and long.preview(TOKENIZER)[0].endswith("...")

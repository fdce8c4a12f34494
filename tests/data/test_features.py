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

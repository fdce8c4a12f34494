"""GPT-2's byte-level BPE: one special token, nothing around a text, and what that means for those who read rows."""

import numpy as np
import pytest

from bert_jax.data.conll import Sentence
from bert_jax.data.spans import joined, windows
from bert_jax.data.word_rows import WordRows
from bert_jax.text.bpe import END_OF_TEXT, SPECIALS, ByteLevelBpe
from bert_jax.text.tokenizer import load
from bert_jax.text.training import train_bpe
from tests.text.test_bpe import BYTES, MERGES

PIECES = [*BYTES, *("".join(pair) for pair in MERGES), END_OF_TEXT]
END = len(PIECES) - 1
TOKENIZER = ByteLevelBpe({piece: i for i, piece in enumerate(PIECES)}, MERGES)


def test_one_special_token():
    """It stands for all of them, is no word's continuation, is not found in a text, and does not show."""
    names = ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id")
    assert {getattr(TOKENIZER, name) for name in names} == {END} and not TOKENIZER.continues[END]
    ids = TOKENIZER.encode(f"low{END_OF_TEXT}").ids
    assert END not in ids and TOKENIZER.decode(np.append(ids, END)) == f"low{END_OF_TEXT}"


def test_nothing_around_a_text():
    """A text is as it is, cut at its end; the texts of a pair have the token between them; no text at all is one."""
    low, lower = (TOKENIZER.encode(text).ids.tolist() for text in ("low", "a lower"))
    encoding = TOKENIZER.encode_pair("low", "a lower", max_length=99)
    assert encoding.ids.tolist() == [*low, END, *lower]
    assert encoding.segments.tolist() == [0] * (len(low) + 1) + [1] * len(lower)
    assert len(encoding.offsets) == len(encoding.ids) and encoding.offsets[len(low)].tolist() == [0, 0]
    assert TOKENIZER.encode_pair("a lower", max_length=2).ids.tolist() == lower[:2]
    assert TOKENIZER.encode_pair("", max_length=1).ids.tolist() == [END]
    assert [TOKENIZER.special_tokens(texts) for texts in (1, 2)] == [0, 1]


def test_rows_of_words():
    """The first token of a row is its first word's, and a row is full of words."""
    sentence = Sentence({"words": ["low", "lower", "a"], "tags": ["A", "B", "A"]}, "here")
    rows = WordRows([sentence], {"A": 0, "B": 1}, TOKENIZER, 6)
    batch = rows.read(np.array([0]))
    words = [TOKENIZER.encode(text).ids for text in (" low", " lower", " a")]
    length = sum(map(len, words))
    assert batch["lengths"].tolist() == [length]
    assert batch["tokens"][0, :length].tolist() == np.concatenate(words).tolist()
    assert batch["tags"][0].tolist() == [0, 1, -1, 0, -1, -1]


def test_spans_have_no_place_for_no_answer():
    """An error, and not a span that is one off."""
    with pytest.raises(ValueError, match="spans need a tokenizer that puts"):
        windows(TOKENIZER, np.array([1]), np.array([2, 3]), 16, 8)


def test_saved_trained_and_told_apart(tmp_path):
    """Saved and opened it is the same; trained, its token is the last; RoBERTa's special tokens make it RoBERTa's."""
    TOKENIZER.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.fingerprint == TOKENIZER.fingerprint and not again.framed
    assert '"GPT2Tokenizer"' in (tmp_path / "saved/tokenizer_config.json").read_text()
    trained = train_bpe(["low lower lowest"] * 3, 262, specials=(END_OF_TEXT,))
    assert trained.pieces[-1] == END_OF_TEXT and sorted(trained.pieces[:256]) == BYTES and not trained.framed
    both = ByteLevelBpe({piece: i for i, piece in enumerate([*PIECES, *SPECIALS])}, MERGES)
    assert both.framed and joined(both, np.array([1])).ids.tolist() == [both.cls_id, 1, both.sep_id]

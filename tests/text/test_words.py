"""Words given one by one: each has a first token, which stands for it."""

import pytest

from bert_jax.text.wordpiece import WordPiece
from bert_jax.text.words import word_pieces

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run", "##s", "-", "o"])


def test_each_word_on_its_own():
    """Several pieces, punctuation inside, one that is unknown; and [UNK] where the tokenizer leaves nothing."""
    found = word_pieces(TOKENIZER, ["runs", "run-o", "王", "", "\u200b", " "])
    assert [TOKENIZER.tokens(ids) for ids in found] == [
        ["run", "##s"], ["run", "-", "o"], ["[UNK]"], ["[UNK]"], ["[UNK]"], ["[UNK]"]
    ]  # fmt: skip
    assert word_pieces(TOKENIZER, []) == []


def test_what_is_not_unicode():
    """Is an error, as elsewhere."""
    with pytest.raises(ValueError, match="lone surrogate"):
        word_pieces(TOKENIZER, ["run", "\ud800"])

"""New pieces: which words are worth one, and what a model makes of them."""

import dataclasses

import numpy as np
import pytest

from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import load
from bert_jax.text.tokenizer import SPECIALS
from bert_jax.text.wordpiece import WordPiece
from bert_jax.vocabulary import extend, frequent_words
from tests.interop.random_models import random_model
from tools.extend_vocabulary import Arguments, run

TOKENIZER = WordPiece([*SPECIALS, "un", "##a", "##b", "a", "b", "c", "##c"])


def test_which_words_are_worth_a_piece():
    """By the tokens they save; rare words, words of one piece already, and equal ones in order of the alphabet."""
    words = {"abc": 10, "ab": 30, "a": 99, "cab": 10, "unab": 4, "zz": 25}
    # ab saves 30, zz is unknown and saves 25, abc and cab save 20 each; unab is too rare, a is a piece.
    assert frequent_words(words, TOKENIZER, 9) == ["ab", "zz", "abc", "cab"]
    assert frequent_words(words, TOKENIZER, 2) == ["ab", "zz"]
    assert frequent_words(words, TOKENIZER, 9, minimum=1)[-1] == "unab"  # saves 2 x 4


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_means(tied):
    """Of the rows of the old pieces: embeddings, output bias, the table of an untied decoder; all else stays."""
    # The table has 67 rows for 12 pieces: the rows that no piece has go.
    p = random_model({"mlm": Mlm(tied=tied), "nsp": Nsp()}, tokenizer=TOKENIZER)
    q = extend(p, ["unab", "cc"])
    assert q.tokenizer.vocab_size == q.model.encoder.vocab_size == 14
    assert q.tokenizer.encode("unab cc una").ids.tolist() == [12, 13, 5, 6]
    pieces = [[5, 6, 7], [10, 11]]
    tables = [("encoder", "embeddings", "words", "table"), ("objectives_mlm", "bias")]
    for path in tables + ([] if tied else [("objectives_mlm", "decoder")]):
        old, new = p.params, q.params
        for name in path:
            old, new = old[name], new[name]
        np.testing.assert_array_equal(new[:12], old[:12])
        np.testing.assert_allclose(new[12:], [old[ids].mean(axis=0) for ids in pieces], rtol=1e-6)
    tokens = [[2, 5, 6, 7, 10, 3]]
    before, after = p(tokens), q(tokens)
    np.testing.assert_allclose(after["hidden"], before["hidden"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(after["mlm_logits"][..., :12], before["mlm_logits"][..., :12], rtol=1e-5, atol=1e-5)
    assert p.tokenizer.vocab_size == 12 and p.params["objectives_mlm"]["bias"].shape == (67,)  # the old one stays


def test_words_that_cannot_be_added():
    """One that is there, comes twice, or is not one normalised word; a model without WordPiece."""
    p = random_model({}, tokenizer=TOKENIZER)
    for words, message in (
        (["a"], "has 'a' already"),
        (["cc", "cc"], "has 'cc' already"),
        (["a b"], "is not one normalised word"),
        (["Cc"], r"the tokenizer makes it \['cc'\]"),
        (["[MASK]"], "already"),
    ):
        with pytest.raises(ValueError, match=message):
            extend(p, words)
    with pytest.raises(ValueError, match="there is none here"):
        extend(dataclasses.replace(p, tokenizer=None), ["cc"])


def test_the_tool(tmp_path, capsys):
    """Counts, extends, saves what `load` opens, says what it gained; an existing folder is refused."""
    from rich.console import Console

    random_model({"mlm": Mlm()}, tokenizer=TOKENIZER).save(tmp_path / "old")
    (tmp_path / "text.txt").write_text(8 * "Abc, cab abc!\n", encoding="utf-8")
    arguments = Arguments(str(tmp_path / "old"), (tmp_path / "text.txt",), tmp_path / "new", pieces=1)
    run(arguments, Console(width=200))
    opened = load(tmp_path / "new")
    assert opened.tokenizer.pieces[12:] == ("abc",) and opened.params["objectives_mlm"]["bias"].shape == (13,)
    # 8 lines of 2 x 3 + 3 pieces and two punctuation marks without a piece; abc is one piece now.
    assert "tokens in the text: 88 before, 56 after (-36.4%)" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="not overwritten"):
        run(arguments, Console())

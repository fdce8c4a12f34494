"""Byte-level BPE: every text comes back, pairs as RoBERTa has them, saved and opened as it was, trained repeatably."""

import json
from collections import Counter

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from bert_jax.data.spans import joined, windows
from bert_jax.text.bpe import ByteLevelBpe
from bert_jax.text.tokenizer import load
from bert_jax.text.training import bpe_of_counts, train_bpe
from bert_jax.text.words import word_pieces

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("Ġ", "a"), ("l", "o"), ("lo", "w"), ("Ġ", "low"), ("e", "r")]
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *BYTES, *("".join(pair) for pair in MERGES), "<mask>"]
VOCABULARY = {piece: i for i, piece in enumerate(PIECES)}
TEXTS = ["low", "a lower low", " lower  law!", "", "égé 北京 🙂", "a\n\tb", "<mask> </s>", "don't"]


@pytest.fixture(scope="module", params=[False, True])
def tokenizer(request):
    return ByteLevelBpe(VOCABULARY, MERGES, prefix_space=request.param)


def pieces(tokenizer, text):
    return tokenizer.tokens(tokenizer.encode(text).ids)


def test_by_hand():
    """Pairs are joined in the order of the merges; a space belongs to the word behind it."""
    plain, prefixed = ByteLevelBpe(VOCABULARY, MERGES), ByteLevelBpe(VOCABULARY, MERGES, prefix_space=True)
    assert pieces(plain, "low lower a") == ["low", "Ġlow", "er", "Ġa"]
    assert pieces(prefixed, "low lower a") == ["Ġlow", "Ġlow", "er", "Ġa"]
    assert pieces(plain, "é") == ["Ã", "©"]
    assert plain.encode("low é er").offsets.tolist() == [[0, 3], [3, 4], [4, 5], [4, 5], [5, 6], [6, 8]]
    ids = (plain.cls_id, plain.pad_id, plain.sep_id, plain.unk_id, plain.mask_id)
    assert ids == (0, 1, 2, 3, len(PIECES) - 1)
    assert plain.continues[plain.encode("low lower").ids].tolist() == [True, False, True]
    assert not plain.continues[list(ids)].any()


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(tokenizer, text):
    """Text to ids and back, whatever it holds; special tokens cannot be written in a text; one text or many at once."""
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == (text.removeprefix(" ") if tokenizer.prefix_space else text)
    assert not np.isin(ids, [tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.unk_id]).any()
    for found in tokenizer.encode_batch([text, "low"])[:1]:
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, ids)


def test_pairs(tokenizer):
    """<s> a </s></s> b </s>, all of segment 0; cut from the longer text's end to the length that is asked for."""
    a, b = (tokenizer.encode(text).ids.tolist() for text in ("low a low", "a"))
    single = tokenizer.encode_pair("low a low", max_length=9)
    assert single.ids.tolist() == [0, *a, 2]
    pair = tokenizer.encode_pair("low a low", "a", max_length=9)
    assert pair.ids.tolist() == [0, *a, 2, 2, *b, 2]
    assert not pair.segments.any() and len(pair.offsets) == len(pair.ids)
    assert tokenizer.encode_pair("low a low", "a", max_length=7).ids.tolist() == [0, *a[:2], 2, 2, *b, 2]
    with pytest.raises(ValueError, match=r"max_length is 3, but .* take 4 tokens"):
        tokenizer.encode_pair("a", "a", max_length=3)
    assert joined(tokenizer, np.array(a), np.array(b)).ids.tolist() == pair.ids.tolist()
    cut = windows(tokenizer, np.array(b), np.array([5, 6, 7, 8]), 8, 2)
    assert [(start, list(encoding.ids)) for start, encoding in cut] == [
        (0, [0, *b, 2, 2, 5, 6, 7, 2]), (2, [0, *b, 2, 2, 7, 8, 2])
    ]  # fmt: skip


def test_words_are_as_in_a_text(tokenizer):
    """A word that is given alone has the pieces that it has behind a space."""
    found = [tokenizer.tokens(ids) for ids in word_pieces(tokenizer, ["low", "lower"])]
    assert found == [["Ġlow"], ["Ġlow", "er"]]


def test_saved_and_opened(tmp_path, tokenizer):
    """The same fingerprint and the same ids; what is there is not overwritten."""
    tokenizer.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint
    for text in TEXTS:
        np.testing.assert_array_equal(again.encode(text).ids, tokenizer.encode(text).ids)
    other = ByteLevelBpe(VOCABULARY, MERGES[:-1], tokenizer.prefix_space)
    assert other.fingerprint != tokenizer.fingerprint
    assert ByteLevelBpe(VOCABULARY, MERGES, not tokenizer.prefix_space).fingerprint != tokenizer.fingerprint
    with pytest.raises(FileExistsError, match="exists with other content"):
        other.save(tmp_path / "saved")


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"merges.txt": None}, FileNotFoundError, "not the merges.txt"),
        ({"merges.txt": "#version: 0.2\nĠ a\nx\n"}, ValueError, "merges.txt, line 3: 'x' is no pair"),
        ({"merges.txt": "Ġ z z\n"}, ValueError, "line 1: 'Ġ z z' is no pair"),
        ({"merges.txt": "q z\n"}, ValueError, "merge 1, 'q z': the vocabulary has no 'qz'"),
        ({"vocab.json": "{"}, ValueError, "vocab.json is not valid JSON"),
        ({"vocab.json": "[]"}, ValueError, "vocab.json holds list, expected a JSON object"),
        ({"vocab.json": '{"a": "b"}'}, ValueError, "is damaged: it is not one of pieces"),
        ({"vocab.json": '{"a": 1}'}, ValueError, "the ids of the 1 pieces are not 0 to 0"),
        ({"vocab.json": '{"a": 0}'}, ValueError, "lacks the special tokens <pad>"),
        ({"vocab.json": json.dumps({p: i for i, p in enumerate(PIECES[:4] + PIECES[-1:])})}, ValueError, "256 bytes"),
        ({"tokenizer_config.json": '{"add_prefix_space": 1}'}, ValueError, "add_prefix_space is 1"),
        ({"vocab.txt": "[PAD]"}, ValueError, "holds both vocab.txt and vocab.json"),
    ],
)
def test_damaged(tmp_path, files, error, message):
    """What is damaged is said with its file and place."""
    ByteLevelBpe(VOCABULARY, MERGES).save(tmp_path)
    for name, content in files.items():
        (tmp_path / name).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message):
        load(tmp_path)


def test_what_is_no_text(tokenizer):
    """A lone surrogate is an error that names its place; so is a wish to lower the case."""
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at character 1"):
        tokenizer.encode("a\ud800")


def test_lowercase_does_not_apply(tmp_path):
    """Asking for it is an error, not ignored."""
    ByteLevelBpe(VOCABULARY, MERGES).save(tmp_path)
    with pytest.raises(ValueError, match="lowercase=True does not apply"):
        load(tmp_path, lowercase=True)


WORDS = Counter({"low": 50, "lower": 20, "lowest": 20, "new": 30, "newest": 25, "don't": 9, "Größe": 4})


def test_trained():
    """Exactly as many pieces as asked for, special tokens where RoBERTa has them, frequent words in one piece; the
    same bytes each time."""
    tokenizer = bpe_of_counts(WORDS, 280)
    assert tokenizer.vocab_size == 280 and tokenizer.prefix_space
    assert tokenizer.pieces[:4] == ("<s>", "<pad>", "</s>", "<unk>") and tokenizer.pieces[-1] == "<mask>"
    assert pieces(tokenizer, "low new newest") == ["Ġlow", "Ġnew", "Ġnewest"]
    assert "Ġ" not in pieces(tokenizer, "low new")
    again = {bpe_of_counts(Counter(dict(reversed(WORDS.items()))), 280).fingerprint for _ in range(5)}
    assert again == {tokenizer.fingerprint}
    assert train_bpe([" ".join(WORDS.elements())], 280).fingerprint == tokenizer.fingerprint


def test_sizes_that_do_not_fit():
    """Fewer than the bytes, more than the text can fill, and no text, are errors that say what would do."""
    with pytest.raises(ValueError, match=r"vocab_size is 260, but .* take 261"):
        bpe_of_counts(WORDS, 260)
    with pytest.raises(ValueError, match=r"only \d+ pieces .* fewer than vocab_size=9999: ask for at most"):
        bpe_of_counts(WORDS, 9999)
    with pytest.raises(ValueError, match="no words"):
        bpe_of_counts({}, 300)

"""ModernBERT's tokenizer: its added pieces are found in a text, its special tokens cannot be written in one."""

import json
import unicodedata

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from bert_jax.text.bracketed_bpe import BracketedBpe
from bert_jax.text.tokenizer import load

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [["Ġ", "a"], ["l", "o"], ["lo", "w"], ["Ġ", "low"], ["e", "r"]]
OWN = [*BYTES, *("".join(pair) for pair in MERGES)]


def token(i, content, special):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"id": i, "content": content, **flags, "normalized": not special, "special": special}


def content(**changes):
    """A file as the released one is made: the bytes and merges, two added pieces before and behind, special tokens."""
    vocabulary = {"<|padding|>": 0} | {piece: i for i, piece in enumerate(OWN, 1)}
    first = len(vocabulary)
    names = ["  ", "|||EMAIL|||", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    added = [token(first + i, name, name.startswith("[")) for i, name in enumerate(names)]
    pair = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]  # fmt: skip
    specials = {name: {"id": name, "ids": [first + names.index(name)], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    other = [{"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token(0, "<|padding|>", True), *added],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {"type": "TemplateProcessing", "single": pair, "pair": pair + other,
                           "special_tokens": specials},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": MERGES},
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return BracketedBpe(content())


def pieces(tokenizer, text):
    return tokenizer.tokens(tokenizer.encode(text).ids)


def test_by_hand(tokenizer):
    """Merges, added pieces, offsets in the text as it was given, and [CLS] a [SEP] b [SEP]."""
    assert pieces(tokenizer, "low lower a") == ["low", "Ġlow", "er", "Ġa"]
    assert pieces(tokenizer, "low  |||EMAIL||| low") == ["low", "  ", "|||EMAIL|||", "Ġlow"]
    assert tokenizer.encode("a\u0301 low").offsets.tolist() == [[0, 1], [0, 1], [2, 6]]  # one character in NFC
    ids = [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id, tokenizer.unk_id]
    assert tokenizer.tokens(ids) == ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"]
    found = tokenizer.encode_pair("low", "a", max_length=9)
    assert tokenizer.tokens(found.ids) == ["[CLS]", "low", "[SEP]", "a", "[SEP]"]
    assert tokenizer.continues[tokenizer.encode("low lower").ids].tolist() == [True, False, True]
    assert not tokenizer.continues[ids].any()


@pytest.mark.parametrize(
    "text", ["low", " lower  law!", "", "égé 北京 🙂", "a\n\tb   c", "[MASK] [SEP] <|padding|>", "a\u0301"]
)
def test_every_text_comes_back(tokenizer, text):
    """But for its normal form; special tokens cannot be written; one text or many at once."""
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    named = [i for i, piece in enumerate(tokenizer.pieces) if piece.startswith(("[C", "[S", "[P", "[M", "[U", "<|"))]
    assert len(named) == 6 and not np.isin(ids, named).any()
    np.testing.assert_array_equal(tokenizer.encode_batch(["low", text])[1], ids)


def test_saved_and_opened(tmp_path, tokenizer):
    """The same fingerprint and ids; merges as strings, as older files have them, are the same tokenizer, others not."""
    tokenizer.save(tmp_path / "saved")
    assert load(tmp_path / "saved").fingerprint == tokenizer.fingerprint
    model = content()["model"]
    older = BracketedBpe(content(model=model | {"merges": [" ".join(pair) for pair in MERGES]}))
    assert older.fingerprint == tokenizer.fingerprint and pieces(older, " lower") == ["Ġlow", "er"]
    assert BracketedBpe(content(normalizer=None)).fingerprint != tokenizer.fingerprint
    assert BracketedBpe(content(model=model | {"merges": MERGES[:-1]})).fingerprint != tokenizer.fingerprint
    with pytest.raises(ValueError, match="lowercase=False does not apply"):
        load(tmp_path / "saved", lowercase=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, r"not ModernBERT's: \['ByteLevel', 'Lowercase'\]"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, r"not ModernBERT's: .*\[True, True\]"),
        ({"pre_tokenizer": None}, "not byte-level BPE: TypeError"),
        ({"model": {"type": "BPE", "vocab": {"a": 1}, "merges": []}}, "the ids of the 9 pieces are not 0 to 8"),
        ({"decoder": {"type": "Nothing"}}, "damaged: "),
    ],
)
def test_what_is_another_tokenizer(tmp_path, changes, message):
    """Said with its file."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(content(**changes)))
    with pytest.raises(ValueError, match=f"tokenizer.json: .*{message}"):
        load(tmp_path)


def test_special_tokens_that_are_missing(tmp_path):
    """[CLS] makes it this tokenizer, which needs the others, too."""
    made = content()
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] != "[MASK]"]
    with pytest.raises(ValueError, match=r"lacks the special tokens \[MASK\]"):
        BracketedBpe(made)

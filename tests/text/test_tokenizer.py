"""The interface that all tokenizers share: pairs, saving, loading."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest

from bert_jax.text.tokenizer import load
from bert_jax.text.wordpiece import WordPiece

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "A"]
PAD, UNK, CLS, SEP, MASK, A, B, C, D, E, F, G, H = range(13)


@pytest.fixture
def tokenizer():
    return WordPiece(VOCABULARY)


def test_special_ids(tokenizer):
    """The ids come from the vocabulary, wherever the special tokens stand."""
    ids = tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id
    assert ids == (PAD, UNK, CLS, SEP, MASK)
    moved = WordPiece(["a", "[MASK]", "[SEP]", "[UNK]", "[CLS]", "[PAD]"])
    assert (moved.pad_id, moved.unk_id, moved.cls_id, moved.sep_id, moved.mask_id) == (5, 3, 4, 2, 1)


def test_pair_that_fits(tokenizer):
    """Tokens, segments and offsets into the text of each segment."""
    pair = tokenizer.encode_pair("a bc", " d", max_length=8)
    assert tokenizer.tokens(pair.ids) == ["[CLS]", "a", "[UNK]", "[SEP]", "d", "[SEP]"]
    assert pair.segments.tolist() == [0, 0, 0, 0, 1, 1]
    assert pair.offsets.tolist() == [[0, 0], [0, 1], [2, 4], [0, 0], [1, 2], [0, 0]]
    assert pair.ids.dtype == pair.segments.dtype == pair.offsets.dtype == np.int32


@pytest.mark.parametrize(
    ("a", "b", "room", "expected"),
    [
        ("abcde", "fgh", 8, ("abcde", "fgh")),
        ("abcde", "fgh", 6, ("abc", "fgh")),  # the longer loses first
        ("abcde", "fgh", 5, ("abc", "fg")),  # equally long: b loses
        ("abcde", "fgh", 1, ("a", "")),
        ("a", "efgh", 3, ("a", "ef")),
        ("abc", "", 2, ("ab", "")),
        ("abcd", None, 3, ("abc",)),
        ("abcd", None, 0, ("",)),
    ],
)
def test_truncation(tokenizer, a, b, room, expected):
    """One token at a time from the end of the longer text, from b where they are equal; a single text from its end."""
    pair = tokenizer.encode_pair(" ".join(a), b and " ".join(b), max_length=room + 1 + len(expected))
    letters = "".join("|" if piece == "[SEP]" else piece for piece in tokenizer.tokens(pair.ids)[1:])
    assert tuple(letters.removesuffix("|").split("|")) == expected
    assert len(pair.ids) == len(pair.segments) == len(pair.offsets)


def test_max_length_without_room(tokenizer):
    """A length that does not hold the special tokens is an error, not a broken example."""
    with pytest.raises(ValueError, match="max_length is 2"):
        tokenizer.encode_pair("a", "b", max_length=2)


@pytest.mark.parametrize("lowercase", [True, False])
def test_save_and_load(tmp_path, lowercase):
    """A saved tokenizer comes back the same, its casing and fingerprint included."""
    saved = WordPiece(VOCABULARY, lowercase)
    saved.save(tmp_path / "new/folder")
    loaded = load(tmp_path / "new/folder")
    assert loaded.lowercase == lowercase
    assert loaded.pieces == saved.pieces
    assert loaded.fingerprint == saved.fingerprint
    assert json.loads((tmp_path / "new/folder/tokenizer_config.json").read_text())["do_lower_case"] is lowercase
    assert sorted(file.name for file in (tmp_path / "new/folder").iterdir()) == ["tokenizer_config.json", "vocab.txt"]


def test_saving_overwrites_nothing(tmp_path, tokenizer):
    """Saving again is fine; another tokenizer does not replace the one that is there."""
    tokenizer.save(tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(FileExistsError, match=r"vocab\.txt exists with other content"):
        WordPiece([*VOCABULARY, "z"]).save(tmp_path)
    with pytest.raises(FileExistsError, match=r"tokenizer_config\.json"):
        WordPiece(VOCABULARY, lowercase=False).save(tmp_path)
    assert load(tmp_path).fingerprint == tokenizer.fingerprint


def test_fingerprint_tells_tokenizers_apart(tokenizer):
    """Another casing, another order or another piece is another tokenizer."""
    others = [
        WordPiece(VOCABULARY, lowercase=False),
        WordPiece([*VOCABULARY[:-2], "A", "h"]),
        WordPiece(VOCABULARY[:-1]),
        WordPiece([*VOCABULARY, "zz"]),
    ]
    assert len({tokenizer.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize(
    ("pieces", "lowercase"),
    [(["a", "[UNUSED1]", "<S>"], True), (["a", "A"], False), (["a", "##ingA"], False), (["é"], True)],
)
def test_casing_without_a_config(tmp_path, pieces, lowercase):
    """A folder that holds only vocab.txt: a capital letter outside of bracketed names means cased; saying it wins."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY[:5] + pieces), encoding="utf-8")
    assert load(tmp_path).lowercase == lowercase
    assert load(tmp_path, lowercase=not lowercase).lowercase != lowercase


def test_config_without_casing(tmp_path, tokenizer):
    """A config of Hugging Face that says nothing of the casing is as good as none."""
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512, "strip_accents": null}')
    assert not load(tmp_path).lowercase  # the vocabulary has an "A"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds list, expected a JSON object"),
        ('{"do_lower_case": "yes"}', "do_lower_case is 'yes'"),
        ('{"do_lower_case": true, "strip_accents": false}', "strip_accents=False is not supported"),
        ('{"tokenize_chinese_chars": false}', "tokenize_chinese_chars=False is not supported"),
    ],
)
def test_bad_config(tmp_path, tokenizer, config, message):
    """A config that asks for other tokens than BERT's is refused, not ignored."""
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_casing_that_contradicts_the_config(tmp_path, tokenizer):
    """A cased request for an uncased tokenizer is an error."""
    tokenizer.save(tmp_path)
    assert load(tmp_path, lowercase=True).lowercase
    with pytest.raises(ValueError, match="says do_lower_case=True"):
        load(tmp_path, lowercase=False)


def test_folders_that_hold_no_tokenizer(tmp_path, tokenizer):
    """Missing folder, empty folder, both kinds in one."""
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither"):
        load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"x")
    with pytest.raises(ValueError, match="both"):
        load(tmp_path)


def test_crosses_processes(tokenizer):
    """Corpus workers get the tokenizer by pickling."""
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.fingerprint == tokenizer.fingerprint
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (ids,) = pool.apply(tokenizer.encode_batch, (["a b"],))
    assert ids.tolist() == [A, B]

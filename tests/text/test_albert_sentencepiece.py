"""ALBERT's tokenizer: what is done to a text before SentencePiece sees it, and where its tokens stand in it."""

import io
import json

import numpy as np
import pytest
import sentencepiece

from bert_jax.text.albert_sentencepiece import FIRST, AlbertSentencePiece
from bert_jax.text.sentencepiece import SentencePiece
from bert_jax.text.tokenizer import load
from bert_jax.text.training import train_sentencepiece

TEXTS = [
    "the cat sat on the mat, a dog sat in the sun.",
    'cats and dogs, cafe 北京 and the "sun" and the sand 12,3.',
    "these dogs and those cats then ran on and on.",
] * 3


@pytest.fixture(scope="module")
def model():
    """The bytes of a model with the special tokens of the released one."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=80, hard_vocab_limit=False, minloglevel=2,
        character_coverage=1.0,
        pad_id=0, pad_piece=FIRST[0], unk_id=1, bos_id=-1, eos_id=-1, control_symbols=list(FIRST[2:]),
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture(scope="module")
def tokenizer(model):
    return AlbertSentencePiece(model)


def test_what_is_read(tokenizer, model):
    """Lower case, no accents, one kind of quotes; each is an option of its own."""
    plain, cased, accented = (
        tokenizer,
        AlbertSentencePiece(model, lowercase=False),
        AlbertSentencePiece(model, True, True),
    )
    ids = plain.encode('the cafe "sun"').ids.tolist()
    assert plain.encode("The CAFÉ ``Sun''").ids.tolist() == plain.encode("the cafe\u0301 \"sun''").ids.tolist() == ids
    assert plain.unk_id not in ids
    assert plain.unk_id in cased.encode("The cafe").ids and plain.unk_id not in cased.encode("the café").ids
    assert plain.unk_id in accented.encode("CAFÉ").ids and plain.unk_id not in accented.encode("CAFE").ids
    assert len({one.fingerprint for one in (plain, cased, accented, SentencePiece(model))}) == 4
    assert (plain.pad_id, plain.unk_id, plain.cls_id, plain.sep_id, plain.mask_id) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "text",
    ["The CAFÉ", "``Sun'' 's ' ``", "ﬁn cafe\u0301s", "  the \u0130 北京", "", "\u0301", "½ ΣΑΣ", "dogs\u00a0ran"],
)
def test_offsets(tokenizer, text):
    """In characters of the text as given; they cover it in order, and the fast path gives the same ids."""
    found = tokenizer.encode(text)
    np.testing.assert_array_equal(tokenizer.encode_batch([text])[0], found.ids)
    assert (found.offsets[:, 0] <= found.offsets[:, 1]).all() and (np.diff(found.offsets, axis=0) >= 0).all()
    assert found.offsets.size == 0 or found.offsets.max() <= len(text)
    for piece, (start, stop) in zip(tokenizer.tokens(found.ids), found.offsets, strict=True):
        surface = text[start:stop].strip()
        if surface.isascii() and surface.isalpha():
            assert piece.strip("▁") == surface.lower()


def test_words_of_the_original(tokenizer):
    """A single mark, a digit and a letter of another script begin a word, a piece of English letters does not unless it
    has the word mark."""
    continues = dict(zip(tokenizer.pieces, tokenizer.continues.tolist(), strict=True))
    for piece, inside in continues.items():
        begins = piece.startswith("▁") or piece in FIRST or piece in ',."' or not piece.isascii() or piece[0].isdigit()
        assert inside != begins, piece
    assert any(continues.values())


def test_saved_and_loaded(tmp_path, model, tokenizer):
    """With its options; the first pieces tell it from any other SentencePiece model."""
    for name, one in {"a": tokenizer, "b": AlbertSentencePiece(model, False, True)}.items():
        one.save(tmp_path / name)
        again = load(tmp_path / name)
        assert type(again) is AlbertSentencePiece and again.fingerprint == one.fingerprint
    (tmp_path / "a/tokenizer_config.json").unlink()
    assert load(tmp_path / "a").fingerprint == tokenizer.fingerprint
    with pytest.raises(ValueError, match="lowercase=True does not apply"):
        load(tmp_path / "a", lowercase=True)
    train_sentencepiece(TEXTS, vocab_size=40, coverage=1.0).save(tmp_path / "own")
    assert type(load(tmp_path / "own")) is SentencePiece


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not valid JSON"),
        ("[]", "holds list, expected a JSON object"),
        ('{"keep_accents": 1}', "keep_accents is 1, expected true or false"),
    ],
)
def test_bad_options(tmp_path, tokenizer, content, message):
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "saved/tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("normalizer", "message"),
    [
        ({"type": "Prepend", "prepend": "x"}, "not ALBERT's: Prepend"),
        ({"type": "NFKD"}, "not ALBERT's: NFKD"),
        (3, "damaged"),
    ],
)
def test_a_library_file_of_another(tmp_path, normalizer, message):
    """One that does more to a text, or half of what ALBERT's does, is refused."""
    content = {
        "model": {"type": "Unigram", "vocab": [[piece, 0.0] for piece in (*FIRST, "▁a")]},
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Metaspace"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)

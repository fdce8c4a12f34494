"""SentencePiece behind the common interface, and models that cannot be used."""

import io

import numpy as np
import pytest
import sentencepiece

from bert_jax.text.sentencepiece import SentencePiece
from bert_jax.text.tokenizer import load
from bert_jax.text.training import train_sentencepiece

TEXTS = [
    "The cat sat on the mat, a dog sat in the sun.",
    "Cats and dogs, café 北京 and the sun and the sand.",
    "These dogs and those cats then ran on and on.",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_sentencepiece(TEXTS, vocab_size=40, coverage=1.0)


def raw_model(**options):
    """The bytes of a model trained by the library itself, with special tokens of its choice."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=38, minloglevel=2, **options
    )
    return model.getvalue()


def test_special_tokens(tokenizer):
    """A trained model has BERT's special tokens first; none of them continues a word."""
    assert tokenizer.pieces[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ids = tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id
    assert ids == (0, 1, 2, 3, 4)
    assert not tokenizer.continues[:5].any()
    assert "[MASK]" not in tokenizer.tokens(tokenizer.encode("[MASK]").ids)


def test_xlnet_names():
    """XLNet's spelling of the special tokens is found as well."""
    names = ["<cls>", "<sep>", "<mask>"]
    tokenizer = SentencePiece(raw_model(pad_id=3, pad_piece="<pad>", control_symbols=names))
    ids = [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]
    assert [tokenizer.pieces[i] for i in ids] == ["<pad>", "<unk>", *names]


def test_released_xlnet_model(shared_data):
    """XLNet's released model loads from its folder with its own ids."""
    tokenizer = load(shared_data / "vocab/xlnet-base-cased")
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.unk_id) == (32000, 5, 0)
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (3, 4, 6)
    ids = tokenizer.encode("The tokenizers, unaffordable.").ids
    assert tokenizer.tokens(ids)[:2] == ["▁The", "▁token"]
    assert tokenizer.continues[ids][:3].tolist() == [False, False, True]
    assert tokenizer.decode(ids) == "The tokenizers, unaffordable."
    assert tokenizer.tokens(tokenizer.encode("A café: ``no''.").ids) == ["▁A", "▁cafe", ":", "▁", '"', "no", '"', "."]
    np.testing.assert_array_equal(tokenizer.encode("A café").offsets, [[0, 1], [1, 6]])


def test_offsets_count_characters(tokenizer):
    """Offsets are in characters, not bytes, and cover the text from its first to its last character."""
    text = "Café 北京  the ½ cats"
    encoding = tokenizer.encode(text)
    assert encoding.offsets[0, 0] == 0
    assert encoding.offsets[-1, 1] == len(text)
    np.testing.assert_array_equal(encoding.offsets[1:, 0], encoding.offsets[:-1, 1])
    surfaces = {text[start:end] for start, end in encoding.offsets}
    assert "½" in surfaces
    for piece, (start, end) in zip(tokenizer.tokens(encoding.ids), encoding.offsets, strict=True):
        if piece.strip("▁").isascii() and "½" not in text[start:end]:
            assert piece.strip("▁") == text[start:end].strip().lower()


def test_batch_pair_and_decode(tokenizer):
    """The fast path gives the ids of `encode`; pairs and decoding work as for WordPiece."""
    texts = ["the cat sat", "", "dogs, and 😀"]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text).ids)
        assert ids.dtype == np.int32
    assert tokenizer.unk_id in tokenizer.encode("😀").ids
    pair = tokenizer.encode_pair("the cat", "a dog", max_length=20)
    assert tokenizer.decode(pair.ids) == "the cat a dog"
    assert tokenizer.continues[tokenizer.encode("cats").ids].tolist()[0] is False
    with pytest.raises(ValueError, match="id 40 is outside"):
        tokenizer.decode([40])


def test_save_and_load(tmp_path, tokenizer):
    """The model file is kept byte for byte, and so is the fingerprint; another model does not replace it."""
    tokenizer.save(tmp_path / "folder")
    loaded = load(tmp_path / "folder")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.pieces == tokenizer.pieces
    with pytest.raises(FileExistsError):
        train_sentencepiece(TEXTS, vocab_size=38, coverage=1.0).save(tmp_path / "folder")
    with pytest.raises(ValueError, match="lowercase=True does not apply"):
        load(tmp_path / "folder", lowercase=True)


def test_bad_models(tmp_path):
    """Missing, empty, not a model, without the special tokens."""
    file = tmp_path / "spiece.model"
    with pytest.raises(FileNotFoundError, match=r"spiece\.model"):
        SentencePiece(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        SentencePiece(file)
    file.write_bytes(b"a text file\n")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        SentencePiece(file)
    file.write_bytes(raw_model())
    with pytest.raises(ValueError, match=r"lacks the special tokens \[PAD\] or <pad>, \[CLS\] or <cls>"):
        SentencePiece(file)


def test_lone_surrogate(tokenizer):
    """Half a character is refused with its place."""
    with pytest.raises(ValueError, match="surrogate U\\+D83D at character 1"):
        tokenizer.encode("a\ud83d")
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer.encode_batch(["\ud83d"])

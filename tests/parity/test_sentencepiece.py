"""Text through SentencePiece is read as tokenizers of `transformers` read it, which open the folders that are saved."""

import io

import pytest
import sentencepiece
import transformers

from bert_jax.text.fnet_sentencepiece import FnetSentencePiece
from bert_jax.text.tokenizer import load
from bert_jax.text.training import train_sentencepiece

TEXTS = [
    "The cat sat on the mat, a dog sat in the sun.",
    'Cats and dogs, cafe 北京 and the "sun" and the sand 12,3.',
    "These dogs and those cats then ran on and on.",
] * 3
READ = [
    "The café in Zürich, naïve résumé. ``no'' 's",
    "  two  spaces\n and 12,3 北京 कि का है नमस्ते",
    "ΣΑΣ İstanbul ½ ﬁn e\u0301",
    "",
]


def same(tokenizer, folder, texts):
    """The class of theirs that opens what is saved here; the same tokens with the special ones around them."""
    tokenizer.save(folder)
    assert load(folder).fingerprint == tokenizer.fingerprint
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == tokenizer.vocab_size
    assert (theirs.pad_token_id, theirs.mask_token_id) == (tokenizer.pad_id, tokenizer.mask_id)
    for text in texts:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text).ids.tolist(), text
    return theirs


def test_xlnet(shared_data, tmp_path):
    """The released model, without accents."""
    assert type(same(load(shared_data / "vocab/xlnet-base-cased"), tmp_path, READ)) is transformers.XLNetTokenizer


def test_fnet(tmp_path):
    """A model with the special tokens of the released one, capitals and accents kept; of what is in its alphabet, since
    unknown characters have another id there."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=46, minloglevel=2, character_coverage=1.0,
        pad_id=3, pad_piece="<pad>", control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )  # fmt: skip
    tokenizer = FnetSentencePiece(model.getvalue())
    theirs = same(tokenizer, tmp_path, [*TEXTS, " The  ``cats'' ran 12,3 ", ""])
    assert theirs("The cat", "sat")["input_ids"] == tokenizer.encode_pair("The cat", "sat", max_length=32).ids.tolist()


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocabulary_of_ones_own(tmp_path, lowercase):
    """As `tools/train_tokenizer.py` makes it: the same, but for the two marks that theirs makes one of."""
    tokenizer = train_sentencepiece(TEXTS, vocab_size=40, coverage=1.0, lowercase=lowercase)
    theirs = same(tokenizer, tmp_path, [text.replace("``", "").replace("''", "") for text in READ])
    assert theirs("The cat", "sat")["input_ids"] == tokenizer.encode_pair("The cat", "sat", max_length=32).ids.tolist()

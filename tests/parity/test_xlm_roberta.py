"""XLM-R: RoBERTa's encoder under a vocabulary of its own, which is what tells the two apart."""

# ruff: noqa: RUF001 (the letters of many scripts look alike)

import io
import json

import numpy as np
import pytest
import sentencepiece
import torch
import transformers

from bert_jax.models.roberta import Roberta
from bert_jax.pretrained import load
from bert_jax.text.fairseq_sentencepiece import FairseqSentencePiece
from bert_jax.text.tokenizer import load as load_tokenizer
from tests.interop.random_models import FAMILY, LABELS, family_model
from tests.parity.pytorch import opened, ours, tensors, theirs
from tests.parity.test_family import batches_of, without_padding
from tests.parity.test_numbers import assert_parity, pretraining_labels
from tests.text.test_fairseq_sentencepiece import SCRIPTS, trained

CLASSES = list(FAMILY["roberta"][2])
AWKWARD = [
    "",
    "  two  spaces ",
    "ﬁancé ½ ＡＢＣ ｶﾞ",
    "tab\tnew\nline",
    "😀 emoji",
    "e\u0301a",
    "▁mark",
    "a\u200bb",
    "don't 3.5",
]


@pytest.fixture(scope="module")
def tokenizer():
    return FairseqSentencePiece(trained())


def test_tokenizer(tmp_path, tokenizer):
    """Ids of texts in twelve scripts, awkward texts and pairs are those of XLMRobertaTokenizer on the folder that we
    wrote; what it saves, a tokenizer.json alone, opens here as the same tokenizer."""
    tokenizer.save(tmp_path / "ours")
    hers = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path / "ours")
    assert (hers.pad_token_id, hers.mask_token_id, len(hers)) == (1, 151, tokenizer.vocab_size)
    assert hers.convert_ids_to_tokens(list(range(152))) == list(tokenizer.pieces)
    for a in SCRIPTS + AWKWARD:
        assert hers(a)["input_ids"] == tokenizer.encode_pair(a, max_length=99).ids.tolist(), a
        pair = tokenizer.encode_pair(a, SCRIPTS[0], max_length=99)
        assert hers(a, SCRIPTS[0])["input_ids"] == pair.ids.tolist(), a
    hers.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs/sentencepiece.bpe.model").exists()
    again = load_tokenizer(tmp_path / "theirs")
    assert type(again) is FairseqSentencePiece and again.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("length", [1, 17, 128])
def test_pretraining(compare, tmp_path, tokenizer, length):
    """Hidden states, logits, loss and all gradients of XLMRobertaForMaskedLM, with padding."""
    fields = {"vocab_size": 152, "max_length": 128, "activation": "gelu"}
    p = family_model("roberta", "RobertaForMaskedLM", tokenizer=tokenizer, **fields)
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", "XLMRobertaForMaskedLM")
    batch, inputs = batches_of("roberta", p.model, length)
    labels, wanted = pretraining_labels(p.model, batch, batch["lengths"])
    found, expected = ours(p.model, p.params, batch | labels), theirs(model, inputs, wanted, "mlm_logits")
    # One parameter under two names, of which theirs counts the other.
    expected[2]["roberta.embeddings.word_embeddings.weight"] = expected[2].pop("lm_head.decoder.weight")
    found, expected = ((without_padding(out, inputs["attention_mask"]), *rest) for out, *rest in (found, expected))
    assert_parity(compare, found, expected)


@pytest.mark.parametrize("name", CLASSES)
def test_both_ways(compare, tmp_path, tokenizer, name):
    """What each class of theirs saves opens here with its heads and labels, `hidden` is its last hidden state; saved
    again, the same class opens it, tokenizer included, and every tensor is what it was, to the bit."""
    labelled = name.endswith(("SequenceClassification", "TokenClassification"))
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=152,
        num_hidden_layers=2,
        hidden_size=36,
        num_attention_heads=3,
        intermediate_size=52,
        max_position_embeddings=19,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        **labels if labelled else {},
    )
    model = getattr(transformers, f"XLM{name}")(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    p = load(tmp_path / "theirs")
    assert type(p.model.encoder) is Roberta and type(p.tokenizer) is FairseqSentencePiece
    assert {key: type(head) for key, head in p.model.objectives.items()} == {
        key: type(head) for key, head in FAMILY["roberta"][2][name][0].items()
    }
    assert p.labels == (LABELS if labelled else ())
    _, inputs = batches_of("roberta", p.model, 17)
    mask = inputs["attention_mask"]
    with torch.no_grad():
        expected = model.base_model(**tensors(inputs)).last_hidden_state.numpy()
    found = p(inputs["input_ids"], np.zeros_like(mask), mask)["hidden"]
    compare("hidden", found * mask[..., None], expected * mask[..., None])
    p.save(tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["model_type"] == "xlm-roberta"
    again, state = opened(tmp_path / "ours", f"XLM{name}").state_dict(), model.state_dict()
    assert again.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(again[key], value), key
    hers = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert type(hers).__name__ == "XLMRobertaTokenizer"
    p.save(tmp_path / "here", format="bert_jax")
    load(tmp_path / "here").save(tmp_path / "there")
    assert (tmp_path / "there/config.json").read_bytes() == (tmp_path / "ours/config.json").read_bytes()


def test_the_vocabulary_decides(tmp_path, tokenizer):
    """The same encoder without this tokenizer is RoBERTa, and its weights are the same under the same names."""
    p = family_model("roberta", "RobertaModel", vocab_size=152)
    p.save(tmp_path / "roberta")
    family_model("roberta", "RobertaModel", tokenizer=tokenizer, vocab_size=152).save(tmp_path / "xlm")
    files = [tmp_path / kind / "model.safetensors" for kind in ("roberta", "xlm")]
    assert files[0].read_bytes() == files[1].read_bytes()
    opened(tmp_path / "roberta", "RobertaModel")
    opened(tmp_path / "xlm", "XLMRobertaModel")


def test_the_library_is_that_of_the_original(tokenizer):
    """fairseq's own way to ids: the model's, one further."""
    library = sentencepiece.SentencePieceProcessor(model_proto=io.BytesIO(trained()).getvalue())
    for text in SCRIPTS + AWKWARD:
        there = [i + 1 if i else 3 for i in library.encode(text)]
        assert tokenizer.encode(text).ids.tolist() == there

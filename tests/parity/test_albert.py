"""ALBERT: random weights compute what PyTorch's do, with one set of parameters for all layers and with several."""

import io

import numpy as np
import pytest
import sentencepiece
import transformers

from bert_jax.models.albert import Albert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.sop import Sop
from bert_jax.text.albert_sentencepiece import FIRST, AlbertSentencePiece
from bert_jax.text.tokenizer import load
from tests.interop.random_models import random_model
from tests.parity.pytorch import opened, ours, theirs
from tests.parity.test_numbers import assert_parity, batches_of, pretraining_labels

# Of each, fields that differ from the defaults.
CONFIGURATIONS = {
    "as released": {"activation": "gelu_tanh"},
    "groups": {"activation": "gelu", "num_layers": 6, "num_groups": 3, "embedding_width": 20},
    "wide tables": {"activation": "relu", "vocab_size": 96, "width": 32, "num_heads": 4, "embedding_width": 56},
    "no pooler": {"activation": "gelu_tanh", "norm_epsilon": 1e-5, "embedding_width": 36, "pooler": False},
}


@pytest.mark.parametrize(
    ("configuration", "length"), [("as released", 512), ("groups", 17), ("wide tables", 1), ("no pooler", 128)]
)
def test_pretraining(compare, tmp_path, configuration, length):
    """Hidden states, pooled output, logits of both heads, loss and all gradients, with padding and segment ids; one
    configuration is of the masked LM alone and has a decoder of its own."""
    fields = CONFIGURATIONS[configuration]
    pooler = fields.get("pooler", True)
    p = random_model(
        {"mlm": Mlm(tied=pooler)} | ({"sop": Sop()} if pooler else {}), kind=Albert, max_length=512, **fields
    )
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", "AlbertForPreTraining" if pooler else "AlbertForMaskedLM")
    batch, inputs = batches_of(p.model, length)
    labels, wanted = pretraining_labels(p.model, batch, batch["lengths"])
    if pooler:
        pairs = np.array([1, 0, 0, 1])
        labels |= {"pair_label": pairs.astype(np.int32), "weight": np.ones(4, np.float32)}
        wanted["sentence_order_label"] = pairs
    assert_parity(compare, ours(p.model, p.params, batch | labels), theirs(model, inputs, wanted, "mlm_logits"))


TEXTS = [
    "The cat sat on the mat, a dog sat in the sun 12, 1920, and 2,000.",
    "Cats and dogs, ``café'' 北京 ﬁn ½ and the SAND; it's 13,",
    "These  dogs \t and those cats then ran on\u3000and on … Größe ΣΑΣ İ.",
    "e\u0301 \u0301x \u0e01\u0e33 a\ufe0fb",
    "",
]


def test_tokenizer(tmp_path):
    """Of a model that was trained here theirs makes the same ids, of texts and of pairs; what they save, which has but
    `tokenizer.json`, opens here and is the same; so does theirs open what is saved here."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(3 * [text.lower() for text in TEXTS[:3]]), model_writer=model, vocab_size=70,
        hard_vocab_limit=False, minloglevel=2, character_coverage=1.0, split_by_number=False,
        pad_id=0, pad_piece=FIRST[0], unk_id=1, bos_id=-1, eos_id=-1, control_symbols=list(FIRST[2:]),
    )  # fmt: skip
    ours = AlbertSentencePiece(model.getvalue())
    ours.save(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert type(theirs) is transformers.AlbertTokenizer
    theirs.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs/spiece.model").exists()
    opened_here = load(tmp_path / "theirs")
    assert opened_here.fingerprint == ours.fingerprint
    for a in TEXTS:
        wanted = theirs(a)["input_ids"]
        assert opened_here.encode_pair(a, max_length=99).ids.tolist() == wanted, a
        assert ours.encode_pair(a, max_length=99).ids.tolist() == wanted, a
        pair = theirs(a, TEXTS[0], return_token_type_ids=True)
        found = ours.encode_pair(a, TEXTS[0], max_length=199)
        if a:  # without a text theirs make no pair
            assert (pair["input_ids"], pair["token_type_ids"]) == (found.ids.tolist(), found.segments.tolist())

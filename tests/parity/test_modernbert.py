"""ModernBERT beside transformers, as far as `test_family.py` has it not: every layer, the mean over tokens, the
tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bert_jax.models.modernbert import ModernBert
from bert_jax.objectives.classify import Classify
from bert_jax.pretrained import load as load_model
from bert_jax.text.bracketed_bpe import BracketedBpe
from bert_jax.text.tokenizer import load
from tests.interop.random_models import CONFIG, LABELS, random_model
from tests.parity.pytorch import opened, tensors
from tests.parity.test_family import assert_the_same, batches_of
from tests.text.test_bracketed_bpe import content

SIZES = {"num_layers": 5, "max_length": 300, "activation": "gelu", "window": 20, "global_every": 2}
BASES = {"global_theta": 300.0, "local_theta": 50.0}


@pytest.mark.parametrize("hidden", ["gelu_norm", "mean_gelu_norm"])
def test_a_head_over_texts(compare, tmp_path, hidden):
    """Five layers with other windows, frequencies and places of the global ones, over rows of 300 with padding: hidden
    states, logits, loss and all gradients, of the first token and of the mean."""
    p = random_model({"classify": Classify(3, labels=LABELS, hidden=hidden)}, kind=ModernBert, **SIZES | BASES)
    p.save(tmp_path / "saved")
    batch, inputs = batches_of("modernbert", p.model, 300)
    label = np.array([0, 2, 1, 2], np.int32)
    model = opened(tmp_path / "saved", "ModernBertForSequenceClassification")
    labels = {"label": label, "weight": np.ones(4, np.float32)}
    assert_the_same(compare, p, model, batch, labels, inputs, {"labels": label}, "logits")


def test_every_layer(compare, tmp_path):
    """The hidden states behind each layer, global and local ones in turn."""
    p = random_model({}, kind=ModernBert, **SIZES | BASES)
    p.save(tmp_path / "saved")
    batch, inputs = batches_of("modernbert", p.model, 300)
    with torch.no_grad():
        states = opened(tmp_path / "saved", "ModernBertModel")(
            **tensors(inputs), output_hidden_states=True
        ).hidden_states
    given = jax.tree.map(jnp.asarray, ({"params": p.params["encoder"]}, batch))
    found = jax.jit(p.model.encoder.clone(dtype="float32").apply)(*given).intermediates
    mask = inputs["attention_mask"][..., None]
    assert len(states) == 6  # behind the embeddings, and each layer; the last one behind its norm
    compare("hidden", found["embeddings"] * mask, states[0].numpy() * mask)
    for layer, state in zip(found["layers"][:-1], states[1:-1], strict=True):
        compare("hidden", np.asarray(layer) * mask, state.numpy() * mask)


TEXTS = ["low lower lowest", " a  new\tday", "", "Größe, 北京 🙂!", "don't   |||EMAIL|||", "a\u0301 A\u030a"]


def test_tokenizer(tmp_path):
    """The same ids there, of texts and of pairs; what they save opens here as it was."""
    ours = BracketedBpe(content())
    ours.save(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.pad_id, ours.mask_id)
    for a in TEXTS:
        assert theirs(a)["input_ids"] == ours.encode_pair(a, max_length=99).ids.tolist()
        for b in filter(None, TEXTS):  # without a text theirs make no pair
            assert theirs(a, b)["input_ids"] == ours.encode_pair(a, b, max_length=99).ids.tolist()
    theirs.save_pretrained(tmp_path / "theirs")
    assert load(tmp_path / "theirs").fingerprint == ours.fingerprint


def test_answers_are_not_classes(tmp_path):
    """Their head for spans has the tensors of one over texts with two classes, and is not opened as such."""
    model = transformers.ModernBertForQuestionAnswering(transformers.ModernBertConfig(**CONFIG, pad_token_id=0))
    model.save_pretrained(tmp_path / "theirs")
    p = load_model(tmp_path / "theirs")
    assert not p.model.objectives
    assert any("ModernBertForQuestionAnswering finds spans" in note for note in p.notes)

"""Folders pass between here and `transformers` in both directions: every tensor, the outputs, tokenizer and labels."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.interop import names
from bert_jax.pretrained import load
from bert_jax.text.tokenizer import SPECIALS
from bert_jax.text.wordpiece import WordPiece
from tests.interop.random_models import CLASSES, LABELS, TINY, random_batch, random_model
from tests.parity.pytorch import AUTO, opened, tensors

PIECES = [*SPECIALS, *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh"), "北", "é"]
TEXTS = ["a bad cab", "ABBA, egé 北北!", "", "[x] z"]
LABELLED = ("BertForSequenceClassification", "BertForTokenClassification")


def outputs(model, batch):
    """Their logits and hidden states under our names."""
    inputs = {"input_ids": batch["tokens"], "token_type_ids": batch["segments"], "attention_mask": batch["mask"]}
    choices = isinstance(model, transformers.BertForMultipleChoice)
    if choices:
        inputs = {name: array[None] for name, array in inputs.items()}
    with torch.no_grad():
        found = model(**tensors(inputs), output_hidden_states=True)
    own = {
        "BertForPreTraining": {"prediction_logits": "mlm_logits", "seq_relationship_logits": "nsp_logits"},
        "BertForMaskedLM": {"logits": "mlm_logits"},
        "BertForNextSentencePrediction": {"logits": "nsp_logits"},
    }.get(type(model).__name__, {"logits": "logits", "pooler_output": "pooled"})
    result = {"hidden": found.hidden_states[-1]} | {ours: found[name] for name, ours in own.items() if name in found}
    if "start_logits" in found:
        result["logits"] = torch.stack([found.start_logits, found.end_logits], -1)
    if choices:
        result["logits"] = result["logits"][0]
    return result


def assert_outputs(compare, p, model):
    batch = random_batch(p.model, [17, 5], 17)
    expected, found = outputs(model, batch), p(**batch)
    for name, value in expected.items():
        compare(name, found[name], value)


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_ours_there(compare, tmp_path, name, pooler):
    """Each class opens what we save, with no tensor missing or left over, its tokenizer and labels; outputs are equal.

    What was saved from an encoder with a pooler opens in a class without one, too."""
    heads, wanted = CLASSES[name]
    if wanted and not pooler:
        pytest.skip("the class needs a pooler") if heads else None
    p = random_model(heads, tokenizer=WordPiece(PIECES), pooler=pooler or wanted)
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", name)
    assert_outputs(compare, p, model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == p.tokenizer.encode_pair(text, max_length=99).ids.tolist()
    if name in LABELLED:
        assert model.config.id2label == dict(enumerate(LABELS))
        assert model.config.label2id == {label: i for i, label in enumerate(LABELS)}

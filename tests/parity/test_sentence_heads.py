"""A regression and several labels are heads of transformers' `BertForSequenceClassification`, in both directions."""

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.pretrained import load
from tests.interop.random_models import CONFIG, LABELS, random_batch, random_model
from tests.parity.pytorch import gradients, opened, ours, tensors

NAME = "BertForSequenceClassification"
TARGETS = np.float32([[0.5], [-3], [2]])
# Head, what theirs calls the problem, our labels of three rows, theirs.
HEADS = {
    "regress": (Regress(0.2), "regression", {"target": TARGETS[:, 0]}, TARGETS),
    "multilabel": (
        MultiLabel(3, 0.2, labels=LABELS),
        "multi_label_classification",
        {"targets": np.float32([[0, 0, 0], [1, 0, 1], [1, 1, 1]])},
        np.float32([[0, 0, 0], [1, 0, 1], [1, 1, 1]]),
    ),
}


def theirs(model, batch, labels):
    """(logits, loss, gradients) of theirs, whose own configuration chooses the loss."""
    inputs = {"input_ids": batch["tokens"], "token_type_ids": batch["segments"], "attention_mask": batch["mask"]}
    found = model(**tensors(inputs), labels=torch.tensor(labels))
    found.loss.backward()
    return found.logits.detach().numpy(), found.loss.item(), gradients(model)


def assert_parity(compare, p, model, labels, wanted):
    batch = random_batch(p.model, [17, 9, 4], 17)
    logits, loss, gradient = theirs(model, batch, wanted)
    given = {"tokens": batch["tokens"], "segments": batch["segments"], "lengths": batch["mask"].sum(axis=1)}
    given |= labels | {"weight": np.ones(3, np.float32)}
    given = jax.tree.map(lambda array: array.astype(np.int32) if array.dtype.kind == "i" else array, given)
    outputs, own_loss, own_gradient = ours(p.model, p.params, given)
    compare("logits", outputs["logits"], logits)
    compare("loss", own_loss, loss)
    for side in (own_gradient, gradient):  # a bias on all keys has none: softmax does not see it
        for name in [name for name in side if name.endswith("key.bias")]:
            del side[name]
    compare("gradients", own_gradient, gradient)


@pytest.mark.parametrize("name", HEADS)
def test_ours_there(compare, tmp_path, name):
    """Theirs opens what we save with nothing missing, knows the problem and the labels, and computes the same logits,
    loss and gradients."""
    head, problem, labels, wanted = HEADS[name]
    p = random_model({name: head}, activation="gelu")
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", NAME)
    assert model.config.problem_type == problem and model.config.num_labels == wanted.shape[1]
    if name == "multilabel":
        assert model.config.id2label == dict(enumerate(LABELS))
    assert_parity(compare, p, model, labels, wanted)


@pytest.mark.parametrize("name", HEADS)
def test_theirs_here(compare, tmp_path, name):
    """What theirs saves opens here as that head, its labels and dropout included; of a single output it is a regression
    also where it was never said."""
    head, problem, labels, wanted = HEADS[name]
    said = {"problem_type": problem} if name == "multilabel" else {}
    named = {"id2label": dict(enumerate(LABELS))} if name == "multilabel" else {"num_labels": 1}
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **CONFIG | said | named, classifier_dropout=0.2, initializer_range=0.2, attn_implementation="eager"
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    p = load(tmp_path / "theirs")
    assert p.notes == () and type(p.model.objectives[name]) is type(head) and p.model.objectives[name].dropout == 0.2
    assert p.labels == (LABELS if name == "multilabel" else ())
    assert_parity(compare, p, model, labels, wanted)

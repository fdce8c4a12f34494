"""Outputs, losses and gradients of random weights are those of PyTorch, over heads, configurations and lengths."""

import jax
import numpy as np
import pytest

from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from tests.interop.random_models import CLASSES, random_model
from tests.parity.pytorch import opened, ours, theirs, with_own_scale

# Each with something of every kind: activation, segment types, heads (their number and width), epsilon, vocabulary
# (multiples of 8 and not), decoder, pooler.
CONFIGURATIONS = {
    "gelu": ({"activation": "gelu", "vocab_size": 96, "width": 32, "num_heads": 4}, True),
    "gelu_new": ({"segment_types": 1, "norm_epsilon": 1e-5}, True),
    "relu": ({"activation": "relu", "segment_types": 16, "width": 40, "num_heads": 5}, False),
    "no pooler": ({"activation": "gelu", "norm_epsilon": 1e-5, "vocab_size": 101, "pooler": False}, False),
}
LENGTHS = (1, 17, 128, 512)


def model_of(configuration):
    """The model, and the name of its class there."""
    overrides, tied = CONFIGURATIONS[configuration]
    heads = {"mlm": Mlm(tied=tied)} | ({"nsp": Nsp()} if overrides.get("pooler", True) else {})
    return random_model(
        heads, max_length=512, **overrides
    ), "BertForPreTraining" if "nsp" in heads else "BertForMaskedLM"


def batches_of(model, length, plain=False):
    """(our batch, their inputs) of four rows: whole and padded, with segments and without; or all whole and without,
    and then neither is given. No token is 0, whose embedding gets no gradient from PyTorch, being that of padding."""
    rng = np.random.default_rng(length)
    lengths = np.array([length, max(1, length * 2 // 3), length, max(1, length // 3)], np.int32)
    if plain:
        lengths[:] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    tokens = rng.integers(1, model.encoder.vocab_size, mask.shape, np.int32)
    segments = rng.integers(0, model.encoder.segment_types, mask.shape, np.int32) * mask
    segments[2:] = 0
    if plain:
        return {"tokens": tokens}, {"input_ids": tokens}
    given = {"input_ids": tokens, "token_type_ids": segments, "attention_mask": mask}
    return {"tokens": tokens, "segments": segments, "lengths": lengths}, given


def pretraining_labels(model, batch, lengths):
    """(labels for us, for them): about a seventh of each row's tokens, and whether the pair belongs together."""
    rows, length = batch["tokens"].shape
    rng = np.random.default_rng(length)
    places = max(1, length // 7)
    positions, weights = np.zeros((rows, places), np.int32), np.zeros((rows, places), np.float32)
    targets = rng.integers(1, model.encoder.vocab_size, (rows, places), np.int32)
    pairs = rng.integers(0, 2, rows, np.int32)
    labels = np.full((rows, length), -100)
    for row, n in enumerate(lengths):
        count = min(places, n)
        positions[row, :count] = np.sort(rng.choice(n, count, replace=False))
        weights[row, :count] = 1
        labels[row, positions[row, :count]] = targets[row, :count]
    masked = {"mlm_positions": positions, "mlm_labels": targets, "mlm_weights": weights}
    if "nsp" not in model.objectives:
        return masked, {"labels": labels}
    return masked | {"pair_label": pairs, "weight": np.ones(rows, np.float32)}, {
        "labels": labels,
        "next_sentence_label": pairs,
    }


@pytest.fixture
def saved(tmp_path):
    """Both sides of a configuration, PyTorch's opened from the folder that we wrote."""

    def both(configuration):
        p, name = model_of(configuration)
        p.save(tmp_path / "saved")
        return p, opened(tmp_path / "saved", name)

    return both


def assert_parity(compare, found, expected, bounds=(1e-5, 1e-5, 1e-5), label="{}"):
    """Outputs, losses and gradients, each of which is noted as a quantity; `label` says of what."""
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        compare(label.format(name), found[0][name], value, bounds[0])
    compare(label.format("loss"), found[1], expected[1], bounds[1])
    compare(label.format("gradients"), with_own_scale(found[2]), with_own_scale(expected[2]), bounds[2])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_pretraining(compare, saved, configuration, length):
    """Hidden states, pooled output, logits of both heads, loss and all gradients, with padding and segment ids."""
    p, model = saved(configuration)
    batch, inputs = batches_of(p.model, length)
    labels, wanted = pretraining_labels(p.model, batch, batch["lengths"])
    found = ours(p.model, p.params, batch | labels)
    assert_parity(compare, found, theirs(model, inputs, wanted, "mlm_logits"))


@pytest.mark.parametrize("length", LENGTHS)
def test_plain(compare, saved, length):
    """The same without padding and segment ids: neither is given."""
    p, model = saved("gelu")
    batch, inputs = batches_of(p.model, length, plain=True)
    labels, wanted = pretraining_labels(p.model, batch, [length] * 4)
    found = ours(p.model, p.params, batch | labels)
    assert_parity(compare, found, theirs(model, inputs, wanted, "mlm_logits"))


HEADS = {
    "BertForNextSentencePrediction": ({"pair_label": np.array([1, 0, 0, 1])}, {"labels": np.array([1, 0, 0, 1])}),
    "BertForSequenceClassification": ({"label": np.array([2, 0, 1, 2])}, {"labels": np.array([2, 0, 1, 2])}),
    "BertForTokenClassification": None,
    "BertForQuestionAnswering": (
        {"span": np.array([[3, 9], [0, 0], [16, 16], [1, 4]])},
        {"start_positions": np.array([3, 0, 16, 1]), "end_positions": np.array([9, 0, 16, 4])},
    ),
    "BertForMultipleChoice": ({"label": np.array([1, 1, 0, 0])}, {"labels": np.array([1, 0])}),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(compare, tmp_path, name):
    """The heads of fine-tuning: logits, loss and all gradients, of the folder that we wrote."""
    heads, pooler = CLASSES[name]
    p = random_model(heads, pooler=pooler, activation="gelu")
    p.save(tmp_path / "saved")
    batch, inputs = batches_of(p.model, 17)
    if HEADS[name] is None:
        tags = np.random.default_rng(0).integers(0, 3, (4, 17))
        tags[inputs["attention_mask"] == 0] = -100
        tags[:, ::5] = -100
        labels, wanted = {"tags": tags}, {"labels": tags}
    else:
        labels, wanted = HEADS[name]
    if name == "BertForMultipleChoice":
        inputs = {key: value.reshape(2, 2, 17) for key, value in inputs.items()}
    weight = {"weight": np.ones(4, np.float32)}
    labels = jax.tree.map(lambda array: array.astype(np.int32), labels)
    (outputs, *rest) = theirs(
        opened(tmp_path / "saved", name), inputs, wanted, "nsp_logits" if "nsp" in heads else "logits"
    )
    if name == "BertForMultipleChoice":
        outputs["logits"] = outputs["logits"].reshape(-1)
    assert_parity(compare, ours(p.model, p.params, batch | labels | weight), (outputs, *rest))


def test_bfloat16(compare, saved):
    """In bfloat16, whose neighbouring numbers are 2**-8 apart, we are within 3 % of PyTorch's float32 in all outputs
    and 5 % in all gradients. PyTorch's own bfloat16 is measured beside it."""
    p, model = saved("gelu")
    batch, inputs = batches_of(p.model, 128)
    labels, wanted = pretraining_labels(p.model, batch, batch["lengths"])
    expected = theirs(model, inputs, wanted, "mlm_logits")
    found = ours(p.model, p.params, batch | labels, "bfloat16")
    assert_parity(compare, found, expected, (0.03, 0.01, 0.05), "bfloat16 {}")
    rounded = theirs(model.bfloat16(), inputs, wanted, "mlm_logits")
    assert_parity(compare, rounded, expected, (np.inf, np.inf, np.inf), "bfloat16 {} (PyTorch's own)")

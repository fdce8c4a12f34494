"""GPT-2's encoder: what its blocks, its initial weights and its sizes are, and what a token sees."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.packing import plan
from bert_jax.learners.multitask import Multitask
from bert_jax.models.gpt2 import Gpt2, gpt2
from bert_jax.nn.cache import CACHE
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.classify import Classify
from bert_jax.pretrained import load
from tests.interop.random_models import family_model, random_model

LENGTH = 12


@pytest.fixture(scope="module")
def model():
    return on_device(random_model({"lm": CausalLm(transform=False)}, kind=Gpt2))


def on_device(opened):
    return dataclasses.replace(opened, params=jax.tree.map(jnp.asarray, opened.params))


@jax.jit
def hidden(params, batch):
    return ENCODER.apply({"params": params}, batch).hidden


ENCODER = random_model({}, kind=Gpt2).model.encoder


def tokens_of(rows, seed=0):
    return np.random.default_rng(seed).integers(1, 67, (rows, LENGTH), np.int32)


def test_a_layer_by_hand(model):
    """x + attention(norm(x)), then x + mlp(norm(x)): the sublayers' output is added to what they did not normalise; the
    norm of the last layer's output is the last, and `intermediates` have the others before it."""
    params = model.params["encoder"]
    zero = jax.tree.map(jnp.zeros_like, params["layers"])
    silent = {"attention": {"qkv": zero["attention"]["qkv"], "out": zero["attention"]["out"]}, "mlp": zero["mlp"]}
    silent = params["layers"] | silent
    tokens = tokens_of(2)
    embedded = params["embeddings"]["words"]["table"][tokens] + params["embeddings"]["positions"]["table"][:LENGTH]
    encoded = ENCODER.apply({"params": params | {"layers": silent}}, {"tokens": jnp.asarray(tokens)})
    *layers, last = encoded.intermediates["layers"]
    np.testing.assert_array_equal(last, encoded.hidden)
    for layer in (encoded.intermediates["embeddings"], *layers):
        np.testing.assert_allclose(layer, embedded, atol=1e-6)
    centred = embedded - embedded.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    wanted = normed * params["last_norm"]["scale"] + params["last_norm"]["bias"]
    np.testing.assert_allclose(encoded.hidden, wanted, atol=1e-5)


def test_what_a_token_sees(model):
    """Itself and those before it: a change of a token changes none of those before, and all from there on."""
    tokens = tokens_of(1)
    changed = np.where(np.arange(LENGTH) == 7, tokens % 66 + 1, tokens).astype(np.int32)
    one, other = (
        np.asarray(hidden(model.params["encoder"], {"tokens": jnp.asarray(own)})) for own in (tokens, changed)
    )
    np.testing.assert_array_equal(one[:, :7], other[:, :7])
    assert (np.abs(one - other)[:, 7:].max(-1) > 1e-3).all()


def test_packed(model):
    """Of several sequences in a row each is as alone, in hidden states and loss: none sees, or is predicted from, what
    stands before it there."""
    lengths = np.array([5, 12, 3, 4], np.int32)
    tokens = np.where(np.arange(LENGTH) < lengths[:, None], tokens_of(4), 0).astype(np.int32)
    batch = {"tokens": tokens, "lengths": lengths, "weight": np.ones(4, np.float32)}
    packed = batch | {"packing": plan(lengths, LENGTH, LENGTH)}
    assert packed["packing"].shape[1] == 2

    @jax.jit
    def compute(batch):
        encoded = model.model.apply({"params": model.params}, batch, method="outputs")["hidden"]
        return encoded, model.model.apply({"params": model.params}, batch)["lm/loss"]

    (alone, loss), (together, packed_loss) = (compute(jax.tree.map(jnp.asarray, own)) for own in (batch, packed))
    real = np.arange(LENGTH) < lengths[:, None]
    np.testing.assert_allclose(np.asarray(together)[real], np.asarray(alone)[real], atol=1e-5)
    assert float(loss.count) == float(packed_loss.count) == (lengths - 1).sum()
    np.testing.assert_allclose(packed_loss.total, loss.total, rtol=1e-5)


def test_initial_weights():
    """Normal with 0.02, cut at two deviations (which leaves 0.88 of it); the projections into the residual stream are
    smaller by the root of twice the layers, positions by half."""
    encoder = Gpt2(vocab_size=500, num_layers=8, width=64, num_heads=2, mlp_width=256, max_length=128)
    params = nn.unbox(encoder.init(jax.random.key(0), {"tokens": jnp.zeros((1, 2), int)})["params"])
    layers, embeddings, cut = params["layers"], params["embeddings"], 0.8796
    for leaf, wanted in [
        (embeddings["words"]["table"], 0.02),
        (embeddings["positions"]["table"], 0.01),
        (layers["attention"]["qkv"]["kernel"], 0.02),
        (layers["mlp"]["widen"]["kernel"], 0.02),
        (layers["attention"]["out"]["kernel"], 0.02 / 4),
        (layers["mlp"]["narrow"]["kernel"], 0.02 / 4),
    ]:
        np.testing.assert_allclose(np.std(leaf), wanted * cut, rtol=0.03)


@pytest.mark.parametrize(("size", "millions"), [("small", 124.4), ("medium", 354.8), ("large", 774.0), ("xl", 1557.6)])
def test_sizes(size, millions):
    """As many parameters as the released models have, with their vocabulary."""
    learner = Multitask(gpt2(size, vocab_size=50257, scan=True), {"lm": CausalLm(transform=False)})
    batch = {"tokens": jnp.zeros((1, 2), int), "weight": jnp.ones(1)}
    shapes = nn.unbox(jax.eval_shape(learner.init, jax.random.key(0), batch)["params"])
    assert set(shapes) == {"encoder"}  # the head has none
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == millions


def test_training_has_no_cache(model):
    """Neither initialised nor kept where nobody brings one."""
    batch = {"tokens": jnp.asarray(tokens_of(1))}
    assert CACHE not in jax.eval_shape(ENCODER.init, jax.random.key(0), batch)
    variables = {"params": model.params["encoder"]}
    _, changed = jax.eval_shape(lambda: ENCODER.apply(variables, batch, mutable=[CACHE]))
    assert not changed


def test_a_head_over_the_last_token():
    """It reads the last token that is no padding, without bias; packed rows the same."""
    p = on_device(random_model({"classify": Classify(3, hidden="last")}, kind=Gpt2))
    assert set(p.params["objectives_classify"]["output"]) == {"kernel"}
    tokens, lengths = tokens_of(3), np.array([12, 4, 7])
    found = p(tokens, mask=np.arange(LENGTH) < lengths[:, None])
    last = np.asarray(found["hidden"])[np.arange(3), lengths - 1]
    np.testing.assert_allclose(found["logits"], last @ p.params["objectives_classify"]["output"]["kernel"], atol=1e-5)
    batch = {"tokens": tokens, "lengths": lengths.astype(np.int32)}
    batch |= {"packing": plan(lengths, LENGTH, LENGTH)}
    packed = p.model.apply({"params": p.params}, jax.tree.map(jnp.asarray, batch), method="outputs")
    np.testing.assert_allclose(packed["logits"], found["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embd_pdrop": 0.3}, "resid_pdrop 0.1 and embd_pdrop 0.3 differ"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True is not supported"),
        ({"n_head": 5}, "n_embd 36 is not a multiple of n_head 5"),
    ],
)
def test_bad_config(tmp_path, fields, message):
    """What there is no such encoder of here, is refused with its file."""
    family_model("gpt2", "GPT2Model").save(tmp_path / "saved")
    file = tmp_path / "saved/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"resid_pdrop": 0.1} | fields))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        load(tmp_path / "saved")


def test_a_head_with_a_transform_stays_here(tmp_path):
    """That of BERT's ablation is none of theirs."""
    with pytest.raises(ValueError, match=r"'lm' .* has no counterpart"):
        random_model({"lm": CausalLm()}, kind=Gpt2).save(tmp_path / "saved")

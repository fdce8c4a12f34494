"""Left-to-right language modelling: what is predicted from what, with the head of masked language modelling."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.models.encoded import Encoded
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.mlm import Mlm

V, D, LENGTH = 30, 8, 6
SIZES = {"vocab_size": V, "num_layers": 1, "width": D, "num_heads": 2, "mlp_width": 12, "max_length": LENGTH}


def batch_of(lengths):
    """Random rows, right-padded with 0."""
    rng, lengths = np.random.default_rng(0), np.array(lengths, np.int32)
    tokens = np.where(np.arange(LENGTH) < lengths[:, None], rng.integers(1, V, (len(lengths), LENGTH)), 0)
    return {
        "tokens": jnp.asarray(tokens, jnp.int32),
        "lengths": jnp.asarray(lengths),
        "weight": jnp.ones(len(lengths), jnp.float32),
    }


@pytest.fixture(scope="module")
def params():
    """Of a causal encoder and the head, far from their initial values."""
    shapes = jax.eval_shape(LEARNER.init, jax.random.key(0), batch_of([LENGTH]))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), nn.unbox(shapes))


LEARNER = Multitask(Bert(**SIZES, causal=True), {"lm": CausalLm()})


@jax.jit
def metrics(params, batch):
    return LEARNER.apply({"params": params}, batch)


@jax.jit
def logits(params, batch):
    return LEARNER.apply({"params": params}, batch, method="outputs")["lm_logits"]


def test_each_token_but_the_first_by_hand(params):
    """The mean negative log probability that each prefix, given alone, has for the token after it: nothing of what
    comes later is known, [CLS] is predicted by none, and padding is not predicted."""
    batch = batch_of([LENGTH, 4, 1])
    losses, right = [], []
    for row, length in enumerate(np.asarray(batch["lengths"])):
        tokens = np.asarray(batch["tokens"][row])
        for at in range(1, length):
            prefix = jnp.where(jnp.arange(LENGTH) < at, tokens, 0)[None]
            scores = logits(params, {"tokens": prefix, "lengths": jnp.array([at])})[0, at - 1]
            scores = np.asarray(scores, np.float64)
            losses.append(np.log(np.exp(scores).sum()) - scores[tokens[at]])
            right.append(scores.argmax() == tokens[at])
    got = metrics(params, batch)
    assert got["lm/loss"].count == len(losses) == 5 + 3
    np.testing.assert_allclose(got["lm/loss"].value, np.mean(losses), rtol=1e-5)
    assert got["lm/accuracy"] == (sum(right), len(right))


def test_packed_sequences_are_predicted_apart(params):
    """Two sequences in a row have the loss that they have in two rows: the first token of the second is predicted by
    none."""
    apart = batch_of([4, 2])
    tokens, ids = apart["tokens"], jnp.array([[1, 1, 1, 1, 2, 2]])
    packed = {
        "tokens": jnp.concatenate([tokens[0, :4], tokens[1, :2]])[None],
        "sequence_ids": ids,
        "positions": jnp.array([[0, 1, 2, 3, 0, 1]]),
        "weight": jnp.ones(1),
    }
    got, want = metrics(params, packed)["lm/loss"], metrics(params, apart)["lm/loss"]
    assert got.count == want.count == 4
    np.testing.assert_allclose(got.total, want.total, rtol=1e-5)


def test_filler_rows_count_for_nothing(params):
    """Whatever stands in rows of weight 0."""
    batch = batch_of([LENGTH, 4])
    batch["weight"] = jnp.array([1.0, 0.0])
    changed = batch | {"tokens": batch["tokens"].at[1].set(7)}
    jax.tree.map(np.testing.assert_array_equal, metrics(params, batch), metrics(params, changed))
    assert metrics(params, batch)["lm/loss"].count == 5


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_that_of_masked_words(tied):
    """The same names and shapes, and the same scores of the same hidden states: the heads can be compared, and one
    can start from the other."""
    rng = np.random.default_rng(0)
    hidden, table = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, LENGTH, D), (V, D)))
    encoded = Encoded(hidden, None, table, {})
    heads = CausalLm(tied=tied), Mlm(tied=tied)
    shapes = [
        nn.unbox(jax.eval_shape(lambda head=head: head.init(jax.random.key(0), encoded, method="outputs")))
        for head in heads
    ]
    assert shapes[0] == shapes[1] and ("decoder" in shapes[0]["params"]) == (not tied)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes[0])
    ours, theirs = (head.apply(params, encoded, method="outputs") for head in heads)
    np.testing.assert_array_equal(ours["lm_logits"], theirs["mlm_logits"])


def test_an_encoder_that_sees_the_answers_is_refused():
    """Before compilation, and by the field to set."""
    with pytest.raises(ValueError, match=r"CausalLm .*causal=True"):
        jax.eval_shape(Multitask(Bert(**SIZES), {"lm": CausalLm()}).init, jax.random.key(0), batch_of([3]))

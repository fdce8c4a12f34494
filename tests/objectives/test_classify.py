"""Classification by hand."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from bert_jax.models.encoded import Encoded
from bert_jax.objectives.classify import Classify

C = 3
PARAMS = {"output": {"kernel": jnp.eye(C), "bias": jnp.array([0.0, 0, math.log(2)])}}
# Probabilities 1/4 1/4 2/4, 5/8 1/8 2/8, 1/4 1/4 2/4.
POOLED = jnp.array([[0.0, 0, 0], [math.log(5), 0, 0], [0, 0, 0]])


def encoded(pooled):
    return Encoded(jnp.zeros((len(pooled), 2, C)), pooled, jnp.zeros((5, C)), {})


@functools.partial(jax.jit, static_argnames=("train", "dropout"))
def metrics(pooled, labels, weights, key=None, train=False, dropout=0.1):
    batch = {"label": labels, "weight": weights}
    rngs = {} if key is None else {"dropout": key}
    return Classify(C, dropout).apply({"params": PARAMS}, encoded(pooled), batch, train, rngs=rngs)


def test_loss_and_accuracy():
    """Mean negative log likelihood of `label`, share of rows where it is the likeliest."""
    got = metrics(POOLED, jnp.array([2, 0, 1]), jnp.ones(3))
    np.testing.assert_allclose(got["loss"].total, -math.log(2 / 4) - math.log(5 / 8) - math.log(1 / 4), rtol=1e-6)
    assert got["loss"].count == 3
    assert got["accuracy"] == (2, 3)


def test_filler_rows_count_for_nothing():
    """Weight 0 takes a row out of both sums, even one of NaN."""
    got = metrics(POOLED.at[2].set(jnp.nan), jnp.array([0, 0, 1]), jnp.array([1.0, 1, 0]))
    np.testing.assert_allclose(got["loss"].value, (-math.log(1 / 4) - math.log(5 / 8)) / 2, rtol=1e-6)
    assert got["accuracy"] == (1, 2)


def test_dropout_is_on_the_pooled_output_and_only_in_training():
    """run_classifier.py:598-600. With rate 0.5 each of 1000 rows loses its 2 log 2 or has it doubled: two possible
    losses, each in about half of the rows; evaluation gives the loss of the input as it is and needs no key."""
    pooled = jnp.tile(jnp.array([[2 * math.log(2), 0, 0]]), (1000, 1))
    labels, weights, key = jnp.zeros(1000, jnp.int32), jnp.ones(1000), jax.random.key(0)
    # Logits (0, 0, log 2) where dropped, (4 log 2, 0, log 2) where kept.
    dropped, kept = -math.log(1 / 4), -math.log(16 / 19)
    total = metrics(pooled, labels, weights, key, train=True, dropout=0.5)["loss"].total
    share = (total - 1000 * kept) / (1000 * (dropped - kept))
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(1000)
    assert abs(share * 1000 - round(float(share) * 1000)) < 0.01
    still = metrics(pooled, labels, weights, train=False, dropout=0.5)["loss"].value
    np.testing.assert_allclose(still, -math.log(4 / 7), rtol=1e-5)


def test_probabilities():
    """`predict` reads no label, drops nothing, and gives what the loss is taken of."""
    predict = jax.jit(lambda pooled: Classify(C).apply({"params": PARAMS}, encoded(pooled), {}, method="predict"))
    probabilities = predict(POOLED)["probabilities"]
    np.testing.assert_allclose(probabilities, np.array([[2, 2, 4], [5, 1, 2], [2, 2, 4]]) / 8, rtol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("hidden", ["tanh", "relu", "gelu"])
def test_a_layer_of_its_own(hidden):
    """It reads the first token in place of the pooled output, which need not be there."""
    states = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    encoded = Encoded(states, None, jnp.zeros((2, 6)), {})
    head = Classify(3, hidden=hidden)
    variables = nn.unbox(head.init(jax.random.key(0), encoded, method="outputs"))
    params = jax.tree.map(lambda leaf: leaf + 0.3, variables["params"])
    own, output = params["hidden"], params["output"]
    functions = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "gelu": lambda x: x * (1 + erf(x / 2**0.5)) / 2}
    activated = functions[hidden](states[:, 0] @ own["kernel"] + own["bias"])
    found = head.apply({"params": params}, encoded, method="outputs")["logits"]
    np.testing.assert_allclose(found, activated @ output["kernel"] + output["bias"], atol=1e-5)
    with pytest.raises(ValueError, match=r"with a pooler .*, or a layer of its own"):
        Classify(3).init(jax.random.key(0), encoded, method="outputs")

"""Regression by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.models.encoded import Encoded
from bert_jax.objectives.regress import Regress

# Scores 2 a - b + 0.5.
PARAMS = {"output": {"kernel": jnp.array([[2.0], [-1.0]]), "bias": jnp.array([0.5])}}
POOLED = jnp.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
SCORES = [2.5, -1.5, 1.0]


def encoded(pooled):
    return Encoded(jnp.zeros((len(pooled), 3, 2)), pooled, jnp.zeros((5, 2)), {})


@functools.partial(jax.jit, static_argnames=("train", "dropout"))
def metrics(pooled, target, weights, key=None, train=False, dropout=0.1):
    rngs = {} if key is None else {"dropout": key}
    batch = {"target": target, "weight": weights}
    return Regress(dropout).apply({"params": PARAMS}, encoded(pooled), batch, train, rngs=rngs)


def test_the_loss_is_the_mean_squared_error():
    """Against `target`, with its sum and its count; nothing else is reported."""
    got = metrics(POOLED, jnp.array([2.5, -0.5, 4.0]), jnp.ones(3))
    assert got.keys() == {"loss"}
    np.testing.assert_allclose(got["loss"].total, 0 + 1 + 9, rtol=1e-6)
    assert got["loss"].count == 3


def test_filler_rows_count_for_nothing():
    """Weight 0 takes a row out of both sums, even one of NaN."""
    got = metrics(POOLED.at[2].set(jnp.nan), jnp.array([2.5, -0.5, 4.0]), jnp.array([1.0, 1, 0]))
    assert got["loss"] == (1, 2)


def test_dropout_is_on_the_pooled_output_and_only_in_training():
    """With rate 0.5 each of 1000 rows loses its 1 or has it doubled: two possible scores, each in about half of the
    rows; evaluation takes the row as it is and needs no key."""
    pooled, weights = jnp.tile(jnp.array([[1.0, 0.0]]), (1000, 1)), jnp.ones(1000)
    target = jnp.full(1000, 0.5)  # what is left of a dropped row is the bias: no error; of a kept one 4
    total = metrics(pooled, target, weights, jax.random.key(0), train=True, dropout=0.5)["loss"].total
    assert abs(total / 16 / 1000 - 0.5) < 4 * 0.5 / math.sqrt(1000)
    assert total % 16 == 0
    assert metrics(pooled, target, weights, dropout=0.5)["loss"].value == 4


def test_scores():
    """`predict` and `outputs` read no target and drop nothing."""

    def found(method):
        head = Regress()
        if method == "predict":
            return head.apply({"params": PARAMS}, encoded(POOLED), {}, method=method)["score"]
        return head.apply({"params": PARAMS}, encoded(POOLED), method=method)["logits"]

    np.testing.assert_allclose(found("predict"), SCORES, rtol=1e-6)
    np.testing.assert_allclose(found("outputs"), np.array(SCORES)[:, None], rtol=1e-6)

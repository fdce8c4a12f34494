"""Several labels by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.encoded import Encoded
from bert_jax.objectives.multilabel import MultiLabel

C = 3
PARAMS = {"output": {"kernel": jnp.eye(C), "bias": jnp.array([0.0, 0.0, math.log(3)])}}
# Probabilities 1/2 1/2 3/4, 4/5 1/2 3/4, 1/2 1/5 3/4: no softmax, which would make them sum to 1.
POOLED = jnp.array([[0.0, 0, 0], [math.log(4), 0, 0], [0, -math.log(4), 0]])
PROBABILITIES = [[1 / 2, 1 / 2, 3 / 4], [4 / 5, 1 / 2, 3 / 4], [1 / 2, 1 / 5, 3 / 4]]


def encoded(pooled):
    return Encoded(jnp.zeros((len(pooled), 2, C)), pooled, jnp.zeros((5, C)), {})


@functools.partial(jax.jit, static_argnames=("train", "dropout"))
def metrics(pooled, targets, weights, key=None, train=False, dropout=0.1):
    rngs = {} if key is None else {"dropout": key}
    batch = {"targets": targets, "weight": weights}
    return MultiLabel(C, dropout).apply({"params": PARAMS}, encoded(pooled), batch, train, rngs=rngs)


def test_the_loss_is_the_mean_binary_cross_entropy():
    """Of every label by itself: none, one, or all of them may apply. The mean is over the labels, then the rows."""
    got = metrics(POOLED, jnp.array([[0.0, 0, 0], [1, 0, 1], [1, 1, 1]]), jnp.ones(3))
    rows = [[1 / 2, 1 / 2, 1 / 4], [4 / 5, 1 / 2, 3 / 4], [1 / 2, 1 / 5, 3 / 4]]
    np.testing.assert_allclose(got["loss"].total, sum(-np.log(row).mean() for row in rows), rtol=1e-6)
    assert got["loss"].count == 3 and got.keys() == {"loss"}


def test_filler_rows_count_for_nothing():
    """Weight 0 takes a row out of both sums, even one of NaN."""
    targets = jnp.array([[0.0, 0, 0], [1, 0, 1], [1, 1, 1]])
    got = metrics(POOLED.at[0].set(jnp.nan), targets, jnp.array([0.0, 1, 0]))
    np.testing.assert_allclose(got["loss"].value, -math.log(4 / 5 * 1 / 2 * 3 / 4) / 3, rtol=1e-6)
    assert got["loss"].count == 1


def test_large_logits_stay_finite():
    """Where a sigmoid is 0 or 1 in float32, the loss is still the distance."""
    got = metrics(jnp.array([[200.0, -200, 0]]), jnp.array([[0.0, 1, 1]]), jnp.ones(1))
    np.testing.assert_allclose(got["loss"].value, (200 + 200 - math.log(3 / 4)) / 3, rtol=1e-6)


def test_dropout_only_in_training():
    """The loss of a row whose state is dropped is another one; evaluation drops nothing and needs no key."""
    targets, weights = jnp.zeros((100, C)), jnp.ones(100)
    pooled = jnp.tile(POOLED[1:2], (100, 1))
    trained = metrics(pooled, targets, weights, jax.random.key(0), train=True, dropout=0.5)["loss"].value
    np.testing.assert_allclose(
        metrics(pooled, targets, weights, dropout=0.5)["loss"].value, -math.log(1 / 5 * 1 / 2 * 1 / 4) / 3, rtol=1e-6
    )
    # Dropped: 1/2; kept and doubled: 1/17.
    dropped, kept = (-math.log(share * 1 / 2 * 1 / 4) / 3 for share in (1 / 2, 1 / 17))
    share = (kept - trained) / (kept - dropped)
    assert 0.3 < share < 0.7 and abs(share * 100 - round(float(share) * 100)) < 0.01


def test_probabilities():
    """`predict` reads no targets; each label has its own, and `outputs` are what they are made of."""
    found = MultiLabel(C).apply({"params": PARAMS}, encoded(POOLED), {}, method="predict")["probabilities"]
    np.testing.assert_allclose(found, PROBABILITIES, rtol=1e-6)
    logits = MultiLabel(C).apply({"params": PARAMS}, encoded(POOLED), method="outputs")["logits"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), PROBABILITIES, rtol=1e-6)


def test_without_labels():
    """A head that nobody told its labels says so."""
    with pytest.raises(ValueError, match="MultiLabel has num_classes 0: give at least 1"):
        MultiLabel().init(jax.random.key(0), encoded(POOLED), method="outputs")

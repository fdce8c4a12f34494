"""Next sentence prediction by hand."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.models.encoded import Encoded
from bert_jax.objectives.nsp import Nsp

PARAMS = {"output": {"kernel": jnp.array([[1.0, 0], [0, 1]]), "bias": jnp.array([0.0, math.log(2)])}}
# Logits (0, log 2), (log 6, log 2), (0, log 2): probabilities 1/3 2/3, 3/4 1/4, 1/3 2/3.
POOLED = jnp.array([[0.0, 0], [math.log(6), 0], [0, 0]])


@jax.jit
def metrics(pooled, labels, weights):
    encoded = Encoded(jnp.zeros((len(pooled), 2, 2)), pooled, jnp.zeros((5, 2)), {})
    return Nsp().apply({"params": PARAMS}, encoded, {"pair_label": labels, "weight": weights}, True)


def test_loss_and_accuracy():
    """Mean negative log likelihood of `pair_label`, share of rows where it is the likelier one; no dropout in
    training."""
    got = metrics(POOLED, jnp.array([1, 1, 0]), jnp.ones(3))
    np.testing.assert_allclose(got["loss"].total, -math.log(2 / 3) - math.log(1 / 4) - math.log(1 / 3), rtol=1e-6)
    assert got["loss"].count == 3
    assert got["accuracy"] == (1, 3)


def test_filler_rows_count_for_nothing():
    """Weight 0 takes a row out of both sums, even one of NaN."""
    pooled = POOLED.at[2].set(jnp.nan)
    got = metrics(pooled, jnp.array([1, 0, 0]), jnp.array([1.0, 1, 0]))
    np.testing.assert_allclose(got["loss"].value, (-math.log(2 / 3) - math.log(3 / 4)) / 2, rtol=1e-6)
    assert got["accuracy"] == (2, 2)


def test_parameters():
    """A kernel [D, 2] (the original's `output_weights` [2, D] transposed) and its bias."""
    encoded = Encoded(jnp.zeros((1, 2, 4)), jnp.zeros((1, 4)), jnp.zeros((5, 4)), {})
    batch = {"pair_label": jnp.array([0]), "weight": jnp.ones(1)}
    params = nn.unbox(jax.eval_shape(lambda: Nsp().init(jax.random.key(0), encoded, batch, False))["params"])
    assert jax.tree.map(jnp.shape, params) == {"output": {"kernel": (4, 2), "bias": (2,)}}

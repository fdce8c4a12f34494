"""Averages and cross-entropy by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.nn.losses import Mean, cross_entropy, hits


def mean(values, weights):
    return Mean.of(jnp.array(values, jnp.float32), jnp.array(weights, jnp.float32))


def test_is_the_weighted_mean():
    """(1 x 2 + 4 x 1) / 3."""
    assert mean([1, 4, 9], [2, 1, 0]) == (6, 3)
    assert mean([1, 4, 9], [2, 1, 0]).value == 2


def test_parts_add_up_exactly():
    """Ragged parts of unequal weight: adding totals and counts gives the mean of the whole, the mean of means does
    not."""
    values, weights = np.arange(10.0), np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 1])
    parts = [mean(values[cut], weights[cut]) for cut in (slice(0, 3), slice(3, 4), slice(4, 10))]
    whole = mean(values, weights)
    added = Mean(sum(part.total for part in parts), sum(part.count for part in parts))
    assert added == whole
    assert added.value == values[weights > 0].mean()
    assert sum(part.value for part in parts) / 3 != whole.value


def test_weight_0_hides_what_is_not_finite():
    """The value and the gradient: neither the loss nor the update may become NaN by a filler row."""
    values, weights = jnp.array([2.0, jnp.nan, jnp.inf]), jnp.array([1.0, 0.0, 0.0])
    value, gradient = jax.value_and_grad(lambda v: Mean.of(v, weights).value)(values)
    assert value == 2
    np.testing.assert_array_equal(gradient, [1, 0, 0])


def test_nothing_counted_is_0():
    """With a gradient of 0, too: a batch without a prediction is no NaN."""
    value, gradient = jax.value_and_grad(lambda v: Mean.of(v, jnp.zeros(2)).value)(jnp.array([5.0, 7.0]))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_cross_entropy_by_hand():
    """-log softmax at the label, float32 also for bfloat16 logits, finite for large ones."""
    logits = jnp.array([[0.0, math.log(3)], [math.log(3), 0], [1000.0, 0.0]])
    want = [math.log(4 / 3), math.log(4 / 3), 1000]
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([1, 0, 1])), want, rtol=1e-6)
    assert cross_entropy(logits.astype(jnp.bfloat16), jnp.array([1, 0, 1])).dtype == jnp.float32


def test_hits():
    """The label is what an argmax answers: the largest, of equals the first; no number is never right."""
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 3, (500, 4)).astype(np.float32)  # many ties
    labels = rng.integers(0, 4, 500).astype(np.int32)
    np.testing.assert_array_equal(hits(jnp.array(logits), jnp.array(labels)), logits.argmax(axis=1) == labels)
    assert 0 < hits(jnp.array(logits), jnp.array(labels)).mean() < 0.5
    assert hits(jnp.full((1, 3), jnp.nan), jnp.array([0])) == 0

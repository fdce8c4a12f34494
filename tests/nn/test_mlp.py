"""The activations are the ones that their names say."""

import math

import numpy as np

from bert_jax.nn.mlp import ACTIVATIONS

X = np.linspace(-6, 6, 241)


def test_gelu_tanh_is_the_originals_formula():
    """modeling.py:264-277, in float64."""
    want = X * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))
    np.testing.assert_allclose(ACTIVATIONS["gelu_tanh"](X.astype(np.float32)), want, atol=2e-6)


def test_gelu_is_the_exact_one():
    """x times the normal distribution function; it differs from the original's by up to 4.7e-4."""
    want = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in X])
    np.testing.assert_allclose(ACTIVATIONS["gelu"](X.astype(np.float32)), want, atol=2e-6)
    difference = abs(ACTIVATIONS["gelu_tanh"](X.astype(np.float32)) - want).max()
    assert 4.5e-4 < difference < 4.9e-4


def test_relu():
    """max(x, 0)."""
    np.testing.assert_array_equal(ACTIVATIONS["relu"](X.astype(np.float32)), np.maximum(X.astype(np.float32), 0))

"""Layer normalisation against float64."""

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.nn.norm import LayerNorm

RNG = np.random.default_rng(0)
SCALE, BIAS = RNG.normal(size=(2, 64)).astype(np.float32)


@jax.jit
def norm(x, scale=SCALE, bias=BIAS):
    return LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)


def exact(x, scale=SCALE, bias=BIAS):
    """In float64, two-pass."""
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * scale + bias


def test_equals_float64():
    """Mean, biased variance, scale and bias on the last axis."""
    x = RNG.normal(3, 5, size=(4, 7, 64)).astype(np.float32)
    np.testing.assert_allclose(norm(x), exact(x), atol=5e-6)


def test_a_large_common_offset_does_not_eat_the_variance():
    """The variance is taken of centred values: mean(x**2) - mean(x)**2 in float32 is off by more than ten times as
    much."""
    x = (RNG.normal(size=(16, 64)) + 1000).astype(np.float32)
    bound = 1e-3
    assert abs(norm(x) - exact(x)).max() < bound
    mean = x.mean(-1, keepdims=True, dtype=np.float32)
    one_pass = (x - mean) / np.sqrt((x * x).mean(-1, keepdims=True, dtype=np.float32) - mean * mean) * SCALE + BIAS
    assert abs(one_pass - exact(x)).max() > 10 * bound


def test_epsilon_is_1e_12_and_inside_the_root():
    """A variance of 1e-12 doubles under the root: the values of +-1e-6 become +-1/sqrt(2), not +-1."""
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    result = norm(np.array([[-1e-6, 1e-6], [5.0, 5.0]], np.float32), ones, zeros)
    np.testing.assert_allclose(result, [[-(0.5**0.5), 0.5**0.5], [0, 0]], rtol=1e-5)


def test_gradients_equal_the_formula_in_float64():
    """In the input, the scale and the bias."""
    x, cotangent = RNG.normal(size=(2, 9, 64)).astype(np.float32)
    got = jax.jit(lambda x, s, b: jax.vjp(norm, x, s, b)[1](cotangent))(x, SCALE, BIAS)
    x, g = x.astype(np.float64), cotangent.astype(np.float64)
    deviation = x.std(-1, keepdims=True)
    normal, inner = (x - x.mean(-1, keepdims=True)) / deviation, g * SCALE
    want = (inner - inner.mean(-1, keepdims=True) - normal * (inner * normal).mean(-1, keepdims=True)) / deviation
    np.testing.assert_allclose(got[0], want, atol=1e-5)
    np.testing.assert_allclose(got[1], (g * normal).sum(0), atol=1e-5)
    np.testing.assert_allclose(got[2], g.sum(0), atol=1e-5)


def test_statistics_are_float32_for_any_input():
    """A bfloat16 input is widened first, and the result is float32."""
    x = jnp.asarray(RNG.normal(size=(4, 64)), jnp.bfloat16)
    assert norm(x).dtype == jnp.float32
    np.testing.assert_array_equal(norm(x), norm(x.astype(jnp.float32)))

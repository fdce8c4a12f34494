"""Rotary positions are the paper's rotations: of complex numbers, by angles that differ as the positions do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.nn.attention import SelfAttention
from bert_jax.nn.rotary import frequencies, rotate, turns

K, THETA = 6, 100.0


def rotated(x, positions, theta=THETA):
    return np.asarray(rotate(jnp.asarray(x), turns(jnp.asarray(positions), frequencies(x.shape[-1], theta))))


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_it_is_a_product_of_complex_numbers():
    """Features i and i + K / 2 are one complex number, and position m multiplies it with exp(1j m theta^(-2i/K)): Su et
    al., equation 14 with the angles of section 3.2.2."""
    x, positions = random(2, 3, 5, K), np.array([[0, 1, 2, 3, 4], [7, 0, 900, 2, 2]], np.int32)
    rates = [THETA ** (-2 * i / K) for i in range(K // 2)]
    numbers = x[..., : K // 2].astype(np.complex128) + 1j * x[..., K // 2 :]
    numbers *= np.exp(1j * positions[:, None, :, None] * rates)
    expected = np.concatenate([numbers.real, numbers.imag], axis=-1)
    np.testing.assert_allclose(rotated(x, positions), expected, atol=2e-4)  # angles of 900 in float32
    np.testing.assert_allclose(rotated(x, positions)[0], expected[0], atol=1e-6)


def test_by_hand():
    """One pair of features at position 3: turned by 3 radians, whatever theta is."""
    found = rotated(np.array([[[[1.0, 0.0]]]], np.float32), np.array([[3]], np.int32))
    np.testing.assert_allclose(found[0, 0, 0], [np.cos(3), np.sin(3)], atol=1e-6)


def test_norms_stay():
    """A rotation changes no length; position 0 changes nothing."""
    x, positions = random(1, 2, 4, K), np.array([[0, 5, 17, 300]], np.int32)
    found = rotated(x, positions)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(found[:, :, 0], x[:, :, 0])


def test_products_depend_on_the_distance_alone():
    """The same query and key, as far apart at other places, have the same product; further apart, another one."""
    query, key = random(1, 1, 1, K), random(1, 1, 1, K, seed=1)

    def product(m, n):
        at = [rotated(x, np.array([[place]], np.int32)) for x, place in ((query, m), (key, n))]
        return float(np.sum(at[0] * at[1]))

    np.testing.assert_allclose(product(2, 5), product(32, 35), rtol=1e-5)
    assert abs(product(2, 5) - product(5, 2)) > 1e-3 and abs(product(2, 5) - product(2, 6)) > 1e-3


def test_frequencies():
    """theta^(-2i/K), in float32; an odd width has a feature without a partner."""
    np.testing.assert_allclose(frequencies(8, 10_000.0), [1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert frequencies(64, 160_000.0).dtype == np.float32
    with pytest.raises(ValueError, match="a head has 5: take an even width"):
        frequencies(5, THETA)


def test_positions_begin_anew_in_each_sequence():
    """Two sequences in one row, whose positions both begin at 0, are attended to as in rows of their own. The positions
    of the row would do, too, since only distances count and they do not see each other; an order of its own would not.
    """
    attention = SelfAttention(2, 0.0, dtype="float32", stddev=0.5)
    x = jnp.asarray(random(1, 9, 12))
    ids, positions = jnp.array([[1] * 4 + [2] * 5]), jnp.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    rates = frequencies(6, THETA)
    params = attention.init(jax.random.key(0), x, None, ids, False)

    def mixed(x, ids, positions):
        return attention.apply(params, x, None, ids, False, None, turns(positions, rates))

    packed = mixed(x, ids, positions)
    for own in (slice(0, 4), slice(4, 9)):
        alone = mixed(x[:, own], None, positions[:, own])
        np.testing.assert_allclose(packed[:, own], alone, atol=1e-5)
    np.testing.assert_allclose(packed, mixed(x, ids, jnp.arange(9)[None]), atol=1e-5)  # the distance alone counts
    assert not np.allclose(packed, mixed(x, ids, positions[:, ::-1]), atol=1e-3)

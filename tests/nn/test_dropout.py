"""Dropout's hash is as good as random where it matters, and the same wherever it runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bert_jax.nn.dropout import Dropout, keep_mask

SHAPE = (32, 128, 256)  # 2**20 positions
SIZE = int(np.prod(SHAPE))
KEY = jax.random.key(7)


@functools.partial(jax.jit, static_argnums=(1, 2))
def mask(key, rate=0.1, shape=SHAPE):
    return keep_mask(key, rate, shape)


def correlation(a, b):
    """In standard deviations of that of independent masks."""
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    a, b = a - a.mean(), b - b.mean()
    return a @ b / np.sqrt((a @ a) * (b @ b)) * np.sqrt(a.size)


@functools.partial(jax.jit, static_argnums=(2, 3))
def dropped(key, x, rate=0.1, train=True):
    return Dropout(rate).apply({}, x, train, rngs={"dropout": key})


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_drops_at_its_rate(rate):
    """Four standard deviations of a binomial over a million positions, for several keys."""
    for key in jax.random.split(KEY, 4):
        assert abs(SIZE - mask(key, rate).sum() - rate * SIZE) < 4 * np.sqrt(SIZE * rate * (1 - rate))


def test_keeps_the_mean_and_scales_what_it_keeps():
    """Each output is 0 or x / (1 - rate), so that the expectation of the output is the input."""
    x = jax.random.normal(KEY, SHAPE) + 1
    y = np.asarray(dropped(KEY, x))
    np.testing.assert_allclose(y, np.where(y != 0, np.asarray(x) / 0.9, 0), rtol=1e-6)
    deviation = np.sqrt(np.mean(np.square(x)) * 0.1 / 0.9 / SIZE)
    assert abs(y.mean() - x.mean()) < 4 * deviation


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("distance", [1, 2, 3, 8])
def test_neighbours_are_independent(axis, distance):
    """A weak hash shows itself as runs or stripes along an axis; axis 0 is the rows of a batch."""
    kept = np.asarray(mask(KEY))
    near, far = (np.delete(kept, edge, axis) for edge in (np.s_[-distance:], np.s_[:distance]))
    assert abs(correlation(near, far)) < 4


def test_two_keys_are_independent():
    """Layers, steps and close seeds have masks of their own: any two of them are uncorrelated."""
    keys = [jax.random.fold_in(KEY, i) for i in range(3)] + [jax.random.key(i) for i in range(3)]
    kept = [np.asarray(mask(key)) for key in keys]
    assert all(abs(correlation(kept[i], kept[j])) < 4 for i in range(6) for j in range(i))


def test_a_key_does_not_permute_the_mask_of_another():
    """A hash of `position ^ key` alone gives every key the same mask with its places swapped; this one must not.

    The keys are chosen so that the difference of their first words stays inside the array.
    """
    keys = jax.random.split(KEY, 4096)
    first = np.asarray(jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys))[:, 0]
    order = np.argsort(first)
    at = np.nonzero((first[order[:-1]] ^ first[order[1:]]) < SIZE)[0][:8]
    assert len(at) == 8
    places = np.arange(SIZE)
    for one, other in zip(order[at], order[at + 1], strict=True):
        swapped = np.asarray(mask(keys[one])).ravel()[places ^ int(first[one] ^ first[other])]
        assert abs(correlation(swapped, mask(keys[other]))) < 4


def test_both_words_of_the_key_count():
    """Keys that share one of their two words, as some of a long run's do, have unrelated masks."""
    keys = jax.random.split(KEY, 2**18)
    words = np.asarray(jax.jit(jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32)))(keys))
    for word in range(2):
        order = np.argsort(words[:, word])
        at = np.nonzero(np.diff(words[order, word]) == 0)[0][:3]
        assert len(at) > 0
        for one, other in zip(order[at], order[at + 1], strict=True):
            assert abs(correlation(mask(keys[one]), mask(keys[other]))) < 4


def test_mask_is_a_function_of_the_position_in_the_flattened_array():
    """Every axis counts: the same mask in another shape, and no two slices of it equal."""
    np.testing.assert_array_equal(mask(KEY).ravel(), mask(KEY, 0.1, (SIZE,)))
    assert len({row.tobytes() for row in np.asarray(mask(KEY)).reshape(-1, 256)}) == SIZE // 256


def test_off_is_the_identity():
    """Evaluation and rate 0 change nothing and need no key."""
    x = jax.random.normal(KEY, (3, 4))
    assert Dropout(0.5).apply({}, x, False) is x
    assert Dropout(0.0).apply({}, x, True) is x


def test_gradient_goes_through_what_was_kept():
    """With the scale of the forward pass, and through the same mask although it is not stored."""
    x, cotangent = jax.random.normal(KEY, (2, 64, 16))
    y, vjp = jax.vjp(lambda x: dropped(KEY, x), x)
    np.testing.assert_allclose(vjp(cotangent)[0], np.where(y != 0, cotangent / np.float32(0.9), 0), rtol=1e-6)


def test_keeps_the_dtype():
    """bfloat16 activations stay bfloat16."""
    assert dropped(KEY, jnp.ones((8, 8), jnp.bfloat16)).dtype == jnp.bfloat16


def test_refuses_more_positions_than_the_hash_tells_apart():
    """2**32 positions are allowed, one row more would repeat the mask."""
    jax.eval_shape(lambda: keep_mask(KEY, 0.1, (2**16, 2**16)))
    with pytest.raises(ValueError, match=r"65537, 65536.*exceed the 2\*\*32"):
        jax.eval_shape(lambda: keep_mask(KEY, 0.1, (2**16 + 1, 2**16)))


def test_several_devices_drop_what_one_drops():
    """The mask is that of the global array, however it is split."""
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    x = jnp.ones((16, 6, 32))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows", None, "columns")))
    split = dropped(KEY, spread)
    assert len(split.sharding.device_set) == 8
    np.testing.assert_array_equal(split, dropped(KEY, x))


def test_jaxs_own_generator_is_the_other_choice():
    """Its rate and its mean, a mask of its own for each key, and the same one for the same key."""
    drop = jax.jit(lambda key, x: Dropout(0.1, "jax").apply({}, x, True, rngs={"dropout": key}))
    first, again, other = (np.asarray(drop(jax.random.key(seed), jnp.ones(SHAPE))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs((first == 0).sum() - 0.1 * SIZE) < 4 * np.sqrt(SIZE * 0.1 * 0.9)
    assert abs(correlation(first, other)) < 4
    assert abs(correlation(first, dropped(jax.random.key(1), jnp.ones(SHAPE)))) < 4

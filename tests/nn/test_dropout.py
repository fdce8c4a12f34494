"""Dropout's hash is as good as random where it matters, and the same wherever it runs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bert_jax.nn import dropout
from bert_jax.nn.dropout import Dropout, Places, keep_mask

SHAPE = (32, 128, 256)  # 2**20 positions
SIZE = int(np.prod(SHAPE))
KEY = jax.random.key(7)


@functools.partial(jax.jit, static_argnums=(1, 2))
def mask(key, rate=0.1, shape=SHAPE):
    return keep_mask(key, rate, Places.of_array(shape))


def words_of(key, row):
    """The two words that a row gets of a key."""
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    return dropout.hash_words(row, first, second), dropout.hash_words(row, second, first)


@jax.jit
def row_mask(key, row):
    """Of one row, as long as the whole array."""
    return keep_mask(key, 0.1, Places(jnp.uint32(row), jnp.arange(SIZE, dtype=jnp.uint32)))


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


@pytest.mark.parametrize("many", ["keys", "rows"])
def test_a_key_or_row_does_not_permute_the_mask_of_another(many):
    """A hash of `column ^ word` alone gives every word the same mask with its places swapped; this one must not.

    The keys, and the rows of a key, are chosen so that the difference of their first words stays inside the row.
    """
    if many == "keys":
        keys, rows = jax.random.split(KEY, 4096), jnp.zeros(4096, jnp.uint32)
    else:
        keys, rows = jnp.broadcast_to(KEY, 4096), jnp.arange(4096, dtype=jnp.uint32)
    first, _ = np.asarray(jax.jit(jax.vmap(words_of))(keys, rows))
    order = np.argsort(first)
    at = np.nonzero((first[order[:-1]] ^ first[order[1:]]) < SIZE)[0][:8]
    assert len(at) == 8
    places = np.arange(SIZE)
    for one, other in zip(order[at], order[at + 1], strict=True):
        swapped = np.asarray(row_mask(keys[one], rows[one]))[places ^ int(first[one] ^ first[other])]
        assert abs(correlation(swapped, row_mask(keys[other], rows[other]))) < 4


@pytest.mark.parametrize("many", ["keys", "words of a row"])
def test_both_words_count(many):
    """Keys that share one of their two words, as some of a long run's do, have unrelated masks; rows of two keys whose
    own words do so, likewise."""
    keys = jax.random.split(KEY, 2**18)
    of_key = lambda key: jax.random.bits(key, (2,), jnp.uint32)  # noqa: E731
    of_row = lambda key: jnp.stack(words_of(key, jnp.uint32(3)))  # noqa: E731
    words = np.asarray(jax.jit(jax.vmap(of_key if many == "keys" else of_row))(keys))
    for word in range(2):
        order = np.argsort(words[:, word])
        at = np.nonzero(np.diff(words[order, word]) == 0)[0][:3]
        assert len(at) > 0
        for one, other in zip(order[at], order[at + 1], strict=True):
            masks = [mask(keys[i]) if many == "keys" else row_mask(keys[i], 3) for i in (one, other)]
            assert abs(correlation(*masks)) < 4


def test_mask_is_a_function_of_the_row_and_the_place_in_it():
    """Every axis counts, no two slices of the mask are equal; it is the same in another shape, for fewer rows, and for
    fewer columns of a row."""
    kept = np.asarray(mask(KEY))
    assert len({row.tobytes() for row in kept.reshape(-1, 256)}) == SIZE // 256
    np.testing.assert_array_equal(mask(KEY, 0.1, (32, 128 * 256)), kept.reshape(32, -1))
    np.testing.assert_array_equal(mask(KEY, 0.1, (20, 48, 256)), kept[:20, :48])


# ---- by the index of tokens ------------------------------------------------------------------------------------------

ROWS, COLUMNS, HEADS = 8, 64, 16
INDEX = 512 * np.arange(ROWS, dtype=np.uint32)[:, None] + np.arange(COLUMNS, dtype=np.uint32)


@functools.partial(jax.jit, static_argnums=2)
def pair_mask(index, key=KEY, rate=0.1):
    return keep_mask(key, rate, Places.of_pairs(index, HEADS))


@jax.jit
def token_mask(index, key=KEY):
    return keep_mask(key, 0.1, Places.of_tokens(index, 1024))


def test_of_pairs_drops_at_its_rate():
    """For several keys, and in every example, head, query and key on its own."""
    for key in jax.random.split(KEY, 4):
        dropped_ = 1 - np.asarray(pair_mask(INDEX, key), np.float64)
        for axis in (None, *range(4)):
            sums = np.moveaxis(dropped_, axis or 0, 0).reshape(1 if axis is None else dropped_.shape[axis], -1)
            deviation = np.sqrt(sums.shape[1] * 0.1 * 0.9)
            assert np.all(abs(sums.sum(1) - 0.1 * sums.shape[1]) < 4.5 * deviation)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("distance", [1, 2, 3, 7])
def test_of_pairs_neighbours_are_independent(axis, distance):
    """Examples, heads, queries, keys."""
    kept = np.asarray(pair_mask(INDEX))
    near, far = (np.delete(kept, edge, axis) for edge in (np.s_[-distance:], np.s_[:distance]))
    assert abs(correlation(near, far)) < 4


def test_of_pairs_no_two_alike():
    """All heads, and all examples, beside each other; a pair and its reverse; no two rows of 64 keys are equal, nor are
    two columns of 64 queries."""
    kept = np.asarray(pair_mask(INDEX))
    assert kept.shape == (ROWS, HEADS, COLUMNS, COLUMNS)
    for slices in (kept, np.moveaxis(kept, 1, 0)):
        assert all(abs(correlation(a, b)) < 4.5 for i, a in enumerate(slices) for b in slices[:i])
    off_diagonal = ~np.eye(COLUMNS, dtype=bool)
    assert abs(correlation(kept[..., off_diagonal], kept.swapaxes(2, 3)[..., off_diagonal]) / np.sqrt(2)) < 4
    kept = np.asarray(pair_mask(INDEX, KEY, 0.5))
    for slices in (kept, kept.swapaxes(2, 3)):
        assert len({row.tobytes() for row in slices.reshape(-1, COLUMNS)}) == ROWS * HEADS * COLUMNS


@pytest.mark.parametrize("distance", [1, 2, 3, 8])
def test_of_tokens_neighbours_are_independent(distance):
    """Tokens, examples, features."""
    kept = np.asarray(token_mask(INDEX))
    for axis in range(3):
        if distance < kept.shape[axis]:
            near, far = (np.delete(kept, edge, axis) for edge in (np.s_[-distance:], np.s_[:distance]))
            assert abs(correlation(near, far)) < 4


def test_a_token_takes_its_mask_with_it():
    """To another place, in an array of another shape, beside other tokens."""
    order = np.random.default_rng(0).permutation(INDEX.size)
    moved = INDEX.ravel()[order].reshape(4, 2 * COLUMNS)
    kept = np.asarray(token_mask(INDEX)).reshape(INDEX.size, -1)
    np.testing.assert_array_equal(token_mask(moved).reshape(INDEX.size, -1), kept[order])
    pairs, found = np.asarray(pair_mask(INDEX)), np.asarray(pair_mask(moved))
    example, column = np.unravel_index(order.reshape(moved.shape), INDEX.shape)
    row, query, key = np.nonzero(example[:, :, None] == example[:, None, :])
    assert len(row) > 1000
    wanted = pairs[example[row, query], :, column[row, query], column[row, key]]
    np.testing.assert_array_equal(found[row, :, query, key], wanted)


def test_more_elements_than_32_bits_count():
    """In an attention of 16 heads over rows of 512, of which 1024 have 2**32 elements, the rows behind are no
    repetition of the first."""
    first, behind = (np.asarray(pair_mask(INDEX + np.uint32(rows * 512))) for rows in (0, 1024))
    assert abs(correlation(first, behind)) < 4
    index = jax.ShapeDtypeStruct((2048, 512), jnp.uint32)
    assert jax.eval_shape(pair_mask, index).size == 2**33


def test_takes_no_memory():
    """The mask of attention is computed where it is used, in the gradient once more: what is kept, and what is written
    between the steps of the compiled program, has no array of its size that is not of floating point."""
    query, weight = jnp.ones((ROWS, HEADS, COLUMNS, 4)), jnp.ones((ROWS, HEADS, COLUMNS, COLUMNS))

    def loss(query, index, key):
        share = jax.nn.softmax(jnp.einsum("bhlk,bhmk->bhlm", query, query) * weight)
        share = Dropout(0.1).apply({}, share, True, Places.of_pairs(index, HEADS), rngs={"dropout": key})
        return jnp.sum(jnp.einsum("bhlm,bhmk->bhlk", share, query) ** 2)

    program = jax.jit(jax.grad(loss)).lower(query, INDEX, KEY).compile().as_text()
    written = []
    for computation in program.split("\n}\n"):
        if "fused" not in computation.strip().split("(")[0]:
            written += re.findall(r"(\w+)\[([\d,]+)\]\S* (?:fusion|\S+)\(", computation)
    large = {kind for kind, shape in written if np.prod([int(n) for n in shape.split(",")]) >= weight.size}
    assert large == {"f32"}


# ---- the module ------------------------------------------------------------------------------------------------------


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


def test_refuses_longer_rows_than_the_hash_tells_apart():
    """2**32 places in a row are allowed, however many rows there are; one more would repeat the mask."""
    jax.eval_shape(lambda: mask(KEY, 0.1, (3, 2**16, 2**16)))
    with pytest.raises(ValueError, match=r"3, 65537, 65536.*exceed the 2\*\*32"):
        jax.eval_shape(lambda: mask(KEY, 0.1, (3, 2**16 + 1, 2**16)))


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

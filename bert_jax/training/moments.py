"""Adam's running means of the gradient and of its square, stored in float32 or in half of that."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, Float, UInt32

from bert_jax.nn.dropout import hash_words

MomentsDtype = Literal["float32", "bfloat16"]


def scale_by_adam(
    b1: float, b2: float, eps: float, *, bias_correction: bool, dtype: MomentsDtype = "float32"
) -> optax.GradientTransformation:
    """Adam's direction `m / (sqrt(v) + eps)`, whatever the parameters' dtype (google-research/bert `optimization.py`,
    130-137).

    `optax.scale_by_adam` always corrects the bias, and rounds its first moment alone; the state is of its type,
    `ScaleByAdamState(count, mu, nu)`.

    Both moments are stored as `dtype`; the arithmetic is float32, and the direction is that of the moments before they
    are rounded. bfloat16 has 8 bits: rounded to the nearest, the second moment at b2 = 0.999 would never fall, since a
    thousandth less rounds back to the same number. So rounding is stochastic: up with the probability of the remainder,
    exact on average, by bits that are a hash of (update, leaf, element) and so the same on any mesh and in any repeat.
    What is left is noise: a tenth of the second moment, a twentieth of its root (tests/training/test_moments.py).
    """

    def init(params):
        mu, nu = (optax.tree.zeros_like(params, dtype=jnp.dtype(dtype)) for _ in range(2))  # to be donated: not one
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=mu, nu=nu)

    def update(gradients, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        if dtype == "bfloat16":
            gradients = optax.tree.cast(gradients, jnp.float32)
        mu = optax.tree.update_moment(gradients, optax.tree.cast(state.mu, jnp.float32), b1, 1)
        nu = optax.tree.update_moment(gradients, optax.tree.cast(state.nu, jnp.float32), b2, 2)
        m, v = mu, nu
        if bias_correction:
            m, v = optax.tree.bias_correction(mu, b1, count), optax.tree.bias_correction(nu, b2, count)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), m, v)
        if dtype == "bfloat16":
            mu, nu = _stored(mu, count, 0), _stored(nu, count, 1)
        return direction, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def round_stochastically(
    x: Float[Array, "..."], first: UInt32[Array, ""], second: UInt32[Array, ""]
) -> BFloat16[Array, "..."]:
    """float32 as one of the two bfloat16 next to it, up or down with the probabilities that make it exact on average.

    The bits are a hash of two words and the element's index (modulo 2**32). What is not finite stays what it is.
    """
    index, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    # bfloat16 is the upper half of float32: a random lower half, added, carries with the probability of what is cut.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (hash_words(index, first, second) >> 16)
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def _stored(tree, count, which):
    """Every leaf rounded with bits of its own, which change from update to update."""
    leaves, structure = jax.tree.flatten(tree)
    update = count.astype(jnp.uint32)

    def words(i):
        leaf = jnp.uint32(2 * i + which)
        return hash_words(update, leaf, jnp.uint32(0)), hash_words(leaf, update, jnp.uint32(1))

    return jax.tree.unflatten(structure, [round_stochastically(leaf, *words(i)) for i, leaf in enumerate(leaves)])

"""Dropout, and the one place where its random bits are drawn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


def keep_mask(key: Key[Array, ""], rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """True with probability 1 - rate, independently for every position of `shape`.

    The bits are an integer hash of (key, position): the finaliser `lowbias32` of Chris Wellons' hash-prospector with
    the second key word added half-way, so that two keys do not give permutations of one mask. It fuses into its
    consumer, takes no memory, is recomputed in the backward pass, and depends on the position in the global array,
    hence not on sharding. Arrays of more than 2**32 elements would repeat their mask and are refused.
    """
    size = 1
    for n in shape:
        size *= n
    if size > 2**32:
        raise ValueError(f"dropout over {shape}: {size} positions exceed the 2**32 that the hash tells apart")
    position = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    x = position ^ first
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D) + second
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    x = x ^ (x >> 16)
    return x >= jnp.uint32(round(rate * 2**32))


class Dropout(nn.Module):
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate); never broadcast."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout rate {self.rate}: must be at least 0 and below 1")
        if not train or self.rate == 0.0:
            return x
        keep = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(keep, x.astype(jnp.float32) * (1 / (1 - self.rate)), 0).astype(x.dtype)

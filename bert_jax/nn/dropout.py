"""Dropout, and the one place where its random bits are drawn."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

# Of a hash of (key, position), or of the key's own generator: threefry, or what `jax_default_prng_impl` names.
DropoutBits = Literal["hash", "jax"]


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
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate); never broadcast.

    Attributes:
        bits: where they come from. JAX's generators write them to memory, once more in the backward pass; only
            threefry's do not depend on how an array is sharded.
    """

    rate: float
    bits: DropoutBits = "hash"

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout rate {self.rate}: must be at least 0 and below 1")
        if not train or self.rate == 0.0:
            return x
        key = self.make_rng("dropout")
        if self.bits == "hash":
            keep = keep_mask(key, self.rate, x.shape)
        else:
            keep = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(keep, x.astype(jnp.float32) * (1 / (1 - self.rate)), 0).astype(x.dtype)

"""Dropout, and the one place where its random bits are drawn."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt32

# Of a hash of (key, place), or of the key's own generator: threefry, or what `jax_default_prng_impl` names.
DropoutBits = Literal["hash", "jax"]


class Places(NamedTuple):
    """What the random bits of an array's elements are a function of: two numbers of each, which broadcast to it.

    Attributes:
        row, column: no two elements have both in common.
    """

    row: UInt32[Array, "..."]
    column: UInt32[Array, "..."]

    @classmethod
    def of_array(cls, shape: tuple[int, ...], row: UInt32[Array, " B"] | None = None) -> "Places":
        """The index on the first axis, or the number `row` that it has in a larger array, and the index in what is
        left, flattened: neither depends on how many rows there are, nor on the length of the second axis. Raises
        ValueError where the latter exceeds 32 bits."""
        column, stride = jnp.zeros(shape[1:], jnp.uint32), 1
        for axis in reversed(range(len(shape) - 1)):
            column += jax.lax.broadcasted_iota(jnp.uint32, shape[1:], axis) * jnp.uint32(stride % 2**32)
            stride *= shape[1 + axis]
        if stride > 2**32:
            raise ValueError(f"dropout over {shape}: rows of {stride} exceed the 2**32 that the hash tells apart")
        row = jnp.arange(shape[0], dtype=jnp.uint32) if row is None else row
        return cls(row.reshape(-1, *(1,) * len(shape[1:])), column)

    @classmethod
    def of_tokens(cls, token_index: UInt32[Array, "B L"], width: int) -> "Places":
        """Of an array [B, L, D] over tokens that have an index of their own, D being `width`."""
        return cls(token_index[..., None], jnp.arange(width, dtype=jnp.uint32))

    @classmethod
    def of_pairs(cls, token_index: UInt32[Array, "B L"], num_heads: int) -> "Places":
        """Of an array [B, H, L, L] over pairs of a query and a key."""
        heads = jnp.arange(num_heads, dtype=jnp.uint32)[:, None]
        query = token_index[:, None] * jnp.uint32(num_heads) + heads
        return cls(query[..., None], token_index[:, None, None])


def keep_mask(key: Key[Array, ""], rate: float, places: Places) -> Bool[Array, "..."]:
    """True with probability 1 - rate, independently for every one of `places`.

    The bits are an integer hash in two rounds: of (key, row), which gives each row two words of its own, and of these
    words and the column. It fuses into its consumer, takes no memory, is recomputed in the backward pass, and depends
    neither on sharding nor on where in memory an element stands.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    first, second = hash_words(places.row, first, second), hash_words(places.row, second, first)
    return hash_words(places.column, first, second) >= jnp.uint32(round(rate * 2**32))


def hash_words(
    x: UInt32[Array, "..."], first: UInt32[Array, "..."], second: UInt32[Array, "..."]
) -> UInt32[Array, "..."]:
    """The finaliser `lowbias32` of Chris Wellons' hash-prospector, with a second word added half-way, so that two pairs
    of words do not give permutations of one mask. For given words it maps no two numbers to one."""
    x = x ^ first
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D) + second
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


class Dropout(nn.Module):
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate); never broadcast.

    Attributes:
        bits: where they come from. JAX's generators write them to memory, once more in the backward pass, and know no
            `places`; only threefry's do not depend on how an array is sharded.
    """

    rate: float
    bits: DropoutBits = "hash"

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool, places: Places | None = None) -> Float[Array, "..."]:
        """`places` are by default those in the array."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout rate {self.rate}: must be at least 0 and below 1")
        if not train or self.rate == 0.0:
            return x
        key = self.make_rng("dropout")
        if self.bits == "hash":
            keep = keep_mask(key, self.rate, places or Places.of_array(x.shape))
        else:
            keep = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(keep, x.astype(jnp.float32) * (1 / (1 - self.rate)), 0).astype(x.dtype)

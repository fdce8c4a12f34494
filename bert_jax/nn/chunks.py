"""Rows in chunks, each of which is computed beside the states of what stands before it: Transformer-XL's recurrence
(Dai et al. 2019, arXiv 1901.02860, section 3.2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped


class Chunks(NamedTuple):
    """How `rows` of `length` tokens fall into chunks, which become rows of their own, those of a row in their order.

    A layer of a chunk needs of the one before it what goes into the same layer, and that is there when all chunks are
    computed together: nothing is carried from one to the next, and all of them have a gradient.

    Attributes:
        size: tokens of a chunk; the last one of a row is filled up.
        memory: how many columns before a chunk its tokens see.
    """

    rows: int
    length: int
    size: int
    memory: int = 0

    @classmethod
    def of(cls, rows: int, length: int, size: int, memory: int = 0) -> "Chunks":
        """Those of at most `size` tokens, 0 for whole rows, which a row that is no longer is, too, without a memory.
        Raises ValueError for sizes that are none."""
        if size < 0 or memory < 0 or (memory and not size):
            raise ValueError(
                f"chunk is {size} and memory {memory}: a chunk has 1 token or more (0: rows are not cut), and a "
                "memory, of 0 columns or more, is of what stands before a chunk"
            )
        return cls(rows, length, size, memory) if 0 < size < length else cls(rows, length, length)

    @property
    def count(self) -> int:
        """C, chunks of a row."""
        return max(1, -(-self.length // self.size)) if self.size else 1

    def fold(self, x: Shaped[Array, "B L *rest"]) -> Shaped[Array, "R size *rest"]:
        """[B, L, ...] as [B C, size, ...], with zeros behind the last tokens."""
        x = jnp.pad(x, ((0, 0), (0, self.count * self.size - self.length), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(self.rows * self.count, self.size, *x.shape[2:])

    def unfold(self, x: Shaped[Array, "R size *rest"]) -> Shaped[Array, "B L *rest"]:
        """The other way round."""
        return x.reshape(self.rows, self.count * self.size, *x.shape[2:])[:, : self.length]

    def lengths(self, lengths: Int[Array, " B"]) -> Int[Array, " R"]:
        """How many tokens of a right-padded row are in each chunk [B C]."""
        return jnp.clip(lengths[:, None] - self._starts(), 0, self.size).reshape(-1)

    def own_columns(self, columns: Int[Array, "B A"]) -> Int[Array, "R P"]:
        """Columns of rows, as many of each chunk, as columns of the chunks."""
        return (columns.reshape(self.rows, self.count, -1) - self._starts()[:, None]).reshape(
            self.rows * self.count, -1
        )

    def row_columns(self, columns: Int[Array, "R P"]) -> Int[Array, "B A"]:
        """The other way round."""
        return (columns.reshape(self.rows, self.count, -1) + self._starts()[:, None]).reshape(self.rows, -1)

    def before(self, x: Shaped[Array, "R size *rest"]) -> Shaped[Array, "R before *rest"]:
        """What stands in the `memory` columns before each chunk, without its gradient; 0 where there is nothing."""
        whole = jax.lax.stop_gradient(x).reshape(self.rows, self.count * self.size, *x.shape[2:])
        whole = jnp.pad(whole, ((0, 0), (self.memory, 0), *[(0, 0)] * (x.ndim - 2)))
        parts = [whole[:, i * self.size : i * self.size + self.memory] for i in range(self.count)]
        return jnp.stack(parts, axis=1).reshape(self.rows * self.count, self.memory, *x.shape[2:])

    def known(self) -> Bool[Array, "R before"]:
        """In which of these columns there is something."""
        columns = self._starts()[:, None] + jnp.arange(-self.memory, 0)
        return jnp.broadcast_to(columns >= 0, (self.rows, *columns.shape)).reshape(self.rows * self.count, self.memory)

    def _starts(self) -> Int[Array, " C"]:
        return jnp.arange(self.count) * self.size

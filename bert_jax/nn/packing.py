"""Several sequences in a row: into packed rows before the encoder, out of them after it (plan: `data.packing`)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer


class Packing:
    """A plan for a batch, and its inverse.

    The parts of the batch that devices split are the groups of the plan; nothing moves between them.

    Args:
        plan: for each place of the packed rows the index b * L + l of its token in the group's part of the batch, which
            is [B / G, L]; -1 where there is none.
        rows, columns: B and L of the batch.
    """

    def __init__(self, plan: Int[Array, "G R M"], rows: int, columns: int):
        groups, _, self.width = plan.shape
        if rows % groups:
            raise ValueError(f"a plan for {groups} groups does not fit a batch of {rows} rows")
        self._shape = groups, rows // groups, columns
        self._tokens = plan.reshape(groups, -1)  # of each place
        places = jnp.arange(self._tokens.shape[1], dtype=plan.dtype)
        unplaced = jnp.full(rows // groups * columns, -1, plan.dtype)

        def inverse(tokens):
            return unplaced.at[tokens].set(places, mode="drop", wrap_negative_indices=False)

        self._places = jax.vmap(inverse)(self._tokens)  # of each token

    def inputs(self, batch: Mapping[str, Array]) -> dict[str, Integer[Array, "R M"]]:
        """`tokens`, and `segments` and `row` if there are any, in packed rows, with `sequence_ids`, the row of the
        batch counted from 1, and the `positions` within the sequence, which follow from the plan; all are 0 where there
        is no token."""
        groups, rows, columns = self._shape
        there = self._tokens >= 0
        before = jnp.arange(groups, dtype=self._tokens.dtype)[:, None] * rows  # in the groups before
        found = {
            "sequence_ids": jnp.where(there, before + self._tokens // columns + 1, 0),
            "positions": jnp.where(there, self._tokens % columns, 0),
        }
        for name in ("tokens", "segments"):
            if name in batch:
                found[name] = _take(batch[name].reshape(groups, -1), self._tokens)
        if "row" in batch:
            found["row"] = _take(batch["row"].reshape(groups, -1), self._tokens // columns)
        return {name: values.reshape(-1, self.width) for name, values in found.items()}

    def unpack(self, x: Float[Array, "R M D"]) -> Float[Array, "B L D"]:
        """What was computed of each token, in the rows of the batch; 0 at padding."""
        groups, rows, columns = self._shape
        x = _rearranged(x.reshape(groups, -1, x.shape[-1]), self._places, self._tokens)
        return x.reshape(groups * rows, columns, -1)

    def one_each(self, x: Float[Array, "R M D"], column: Int[Array, " B"]) -> Float[Array, "B D"]:
        """What was computed of one token of each sequence; 0 where it has none at that column."""
        groups, rows, columns = self._shape
        row = jnp.arange(rows, dtype=self._tokens.dtype)
        wanted = row * columns + column.reshape(groups, rows)
        places = _take(self._places, wanted)
        is_wanted = (self._tokens >= 0) & (_take(wanted, self._tokens // columns) == self._tokens)
        back = jnp.where(is_wanted, self._tokens // columns, -1)
        x = _rearranged(x.reshape(groups, -1, x.shape[-1]), places, back)
        return x.reshape(groups * rows, -1)


@jax.vmap
def _take(x, there):
    """`x[there]` in each group; 0 where `there` is negative."""
    return x.at[there].get(mode="fill", fill_value=0, wrap_negative_indices=False)


@jax.custom_vjp
def _rearranged(x: Float[Array, "G m D"], there: Int[Array, "G n"], back: Int[Array, "G m"]) -> Float[Array, "G n D"]:
    """`x[there]` in each group, 0 where `there` is negative.

    `back` is its inverse: i at the place that `there[i]` names, negative where none does. With it the gradient is
    gathered, too; that of a gather would be scattered, which adds, and waits for each addition.
    """
    return _take(x, there)


def _forward(x, there, back):
    return _take(x, there), back


def _backward(back, cotangent):
    return _take(cotangent, back), None, None


_rearranged.defvjp(_forward, _backward)

"""Keys and values of the tokens before: what makes writing the next token cost one token's work and not a row's."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The collection of variables that holds them.
CACHE = "cache"
# A variable that only a module has which reads them: another one would see each new token alone.
READ = "read"


def new_cache(
    num_layers: int, rows: int, num_heads: int, columns: int, head_width: int, dtype: jnp.dtype
) -> dict[str, Array]:
    """An empty one of a tower's attention: `key` and `value` [N, B, H, M, K], and `start` [N, B], the column of the
    first of the tokens that come next."""
    shape = num_layers, rows, num_heads, columns, head_width
    start = jnp.zeros((num_layers, rows), jnp.int32)
    return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype), "start": start}


def starting_at(cache: Mapping[str, Array], start: Int[Array, " B"]) -> dict[str, Array]:
    """The same one, where the next tokens of each row begin at a column of its own."""
    return dict(cache) | {"start": jnp.broadcast_to(start, cache["start"].shape)}


def joined(
    module: nn.Module, key: Float[Array, "B H L K"], value: Float[Array, "B H L K"]
) -> tuple[Float[Array, "B H M K"], Float[Array, "B H M K"], Bool[Array, "B 1 L M"]]:
    """All keys and values that a layer has seen, those of the L new tokens among them, and which of them each new token
    sees: those up to its own column. What right padding leaves behind a row's tokens is overwritten before it is seen.

    Args:
        module: whose variables they are, called from its compact method.
    """
    module.variable(CACHE, READ, jnp.ones, ())
    keys, values, start = (module.variable(CACHE, name) for name in ("key", "value", "start"))
    rows, (new, columns) = jnp.arange(key.shape[0])[:, None], (key.shape[2], keys.value.shape[2])
    places = start.value[:, None] + jnp.arange(new)
    for kept, own in ((keys, key), (values, value)):
        own = jnp.swapaxes(own, 1, 2).astype(kept.value.dtype)
        kept.value = kept.value.at[rows, :, places].set(own, mode="drop")
    visible = jnp.arange(columns) <= places[..., None]
    return keys.value, values.value, visible[:, None]

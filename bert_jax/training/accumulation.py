"""A batch that is computed in several micro-batches, one after another, as if it had been computed at once.

Exact and not approximate, since averages are kept as sums: the gradient of a loss that is linear in the totals of its
means is the sum of the gradients of the micro-batches, once the counts are those of the whole batch. Averaging the
micro-batches' own losses is another thing wherever they count differently many tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.training.sharding import Together


def check_accumulate(batch_size: int, accumulate: int, together: Together) -> None:
    """Raises ValueError where a batch cannot be dealt out evenly over devices and micro-batches."""
    parts = together.parts * accumulate
    if batch_size % parts:
        raise ValueError(
            f"batch_size {batch_size} does not make {accumulate} micro-batches (accumulate) on {together.parts} devices"
            f" that split each of them: take a multiple of {parts}, or another accumulate"
        )


def groups(together: Together, accumulate: int) -> tuple[int, tuple[int, ...] | None]:
    """Into how many groups of rows a batch is packed, and which of them this process reads (None: all).

    The groups of a device follow each other, one for each micro-batch, so that no row moves to another device.
    """
    own = together.own_parts
    if own is not None:
        own = tuple(part * accumulate + k for part in own for k in range(accumulate))
    return together.parts * accumulate, own


def micro_batches(batch: Mapping[str, jax.Array], accumulate: int, together: Together) -> dict[str, jax.Array]:
    """The arrays of a batch with a leading axis of micro-batches, each of which has an equal share of every device's
    rows; and `row`, the number of each row in the batch, which random numbers are a function of.

    Raises ValueError for an array whose leading axis (rows, or groups of a packing plan) is no multiple of what it is
    split into.
    """
    parts = together.parts
    lie = NamedSharding(together.mesh, PartitionSpec(None, together.rows))

    def split(name, leaf):
        if leaf.shape[0] % (parts * accumulate):
            raise ValueError(
                f"{name} {leaf.shape} cannot be split into {accumulate} micro-batches on {parts} devices: its leading "
                f"axis must be a multiple of {parts * accumulate}"
            )
        by_device = leaf.reshape(parts, accumulate, -1, *leaf.shape[1:])
        leaf = by_device.swapaxes(0, 1).reshape(accumulate, -1, *leaf.shape[1:])
        return jax.lax.with_sharding_constraint(leaf, lie)

    batch = {"row": jnp.arange(len(batch["weight"]), dtype=jnp.uint32)} | dict(batch)
    return {name: split(name, leaf) for name, leaf in batch.items()}


def accumulated_gradient(
    learner: nn.Module,
    metrics_of: Callable[[Any, Mapping[str, jax.Array]], dict[str, Any]],
    params: Any,
    batch: Mapping[str, jax.Array],
    parts: Mapping[str, jax.Array],
) -> tuple[dict[str, Any], Any]:
    """Metrics of a batch and the gradient of its loss, from a scan over its micro-batches; sums are float32.

    Args:
        learner: whose `loss_of` is linear in the totals, and each total a sum over rows.
        metrics_of: `(params, batch) -> Mean by name`.
        params: what the gradient is of.
        batch: the whole.
        parts: the same as `micro_batches`.

    Raises ValueError for a loss that is not linear in the totals.
    """
    # Counts depend on the labels and weights of a batch alone: of this pass over all of it, XLA keeps nothing else.
    means = metrics_of(params, batch)
    slopes = _slopes(learner, means)

    def add(sums, part):
        def loss(params):
            totals = {name: mean.total for name, mean in metrics_of(params, part).items()}
            return sum(slopes[name] * total for name, total in totals.items()), totals

        return jax.tree.map(jnp.add, sums, jax.grad(loss, has_aux=True)(params)), None

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), (params, slopes))
    (gradients, totals), _ = jax.lax.scan(add, nothing, parts)
    return {name: mean._replace(total=totals[name]) for name, mean in means.items()}, gradients


def _slopes(learner: nn.Module, means: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What the loss grows by with the total of each mean, the counts being what they are."""

    def loss(totals):
        return learner.loss_of({name: mean._replace(total=totals[name]) for name, mean in means.items()})

    try:  # what it raises of a function with no transpose, and of a product of two means
        (slopes,) = jax.linear_transpose(loss, {name: mean.total for name, mean in means.items()})(jnp.float32(1))
    except (NotImplementedError, AssertionError) as error:
        raise ValueError(
            "this loss is not linear in the totals of the learner's means, so it is no sum over micro-batches: set "
            "accumulate to 1"
        ) from error
    return slopes

"""A tower of equal layers, unrolled or scanned over one set of stacked parameters."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.nn.cache import CACHE

Remat = Literal["none", "dots", "full"]
# What of a layer is kept for the backward pass; the rest is computed again there. "none" keeps everything, "dots" the
# results of the projections (but not attention's products of two activations, nor what is computed element by element),
# "full" nothing but the layer's input. Whatever is computed again is so in a loop over the layers: of an unrolled tower
# XLA computes it before it is needed, on CPU, and then has all of it in memory nevertheless.
POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


def stack(
    layer: nn.Module,
    x: Float[Array, "B L D"],
    *context,
    count: int,
    sets: int | None = None,
    scan: bool = False,
    remat: Remat = "none",
    numbered: bool = False,
) -> tuple[Float[Array, "B L D"], Float[Array, "N B L D"]]:
    """Applies `count` copies of `layer` in turn; returns the last output and all of them.

    Parameters have a leading axis `N` in both forms, so a checkpoint of one is a checkpoint of the other. Its length
    is `sets`: where layers share their parameters, the gradient of a set is the sum over its layers.

    Args:
        layer: a module of the calling module's scope, called as `layer(x, *context)`.
        context: what every layer sees unchanged (lengths, sequence ids, train).
        sets: how many layers have parameters of their own, which `count / sets` in a row use; all if not given.
        scan: one traced layer in a loop (compiles fast) in place of `count` unrolled ones (runs faster).
        remat: what of a layer is computed again in the backward pass (`POLICIES`); implies `scan`.
        numbered: layers differ by their place: each is called as `layer(x, *context, number)`, counted from 0. The
            number is traced in both forms.

    Raises ValueError where the layers cannot be dealt out evenly.
    """
    sets = count if sets is None else sets
    if sets < 1 or count % sets:
        raise ValueError(f"{count} layers cannot share {sets} sets of parameters: each must serve as many layers")
    loop = scan or remat != "none"

    def apply(layer, x, *number):  # closes over the context, since `nn.remat` would trace an argument such as `train`
        # In a loop XLA does not find out by itself that rows stay where they are, and splits activations as parameters.
        x = nn.with_logical_constraint(layer(x, *context, *number), ("B", None, None))
        return x, x

    if remat != "none":
        apply = nn.remat(apply, prevent_cse=False, policy=POLICIES[remat])

    def each(layer, x, number):
        return apply(layer, x, *number)

    def together(layer, x, numbers):  # those that share a set
        return nn.scan(
            each,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            length=count // sets,
            unroll=1 if loop else count // sets,
        )(layer, x, numbers)

    numbers = (jnp.arange(count),) if numbered else ()
    last, layers = nn.scan(
        each if sets == count else together,
        variable_axes={"params": 0, CACHE: 0},
        split_rngs={"params": True, "dropout": True},
        length=sets,
        unroll=1 if loop else sets,
        metadata_params={nn.PARTITION_NAME: "N"},
    )(layer, x, numbers if sets == count else tuple(number.reshape(sets, -1) for number in numbers))
    return last, layers.reshape(count, *x.shape)

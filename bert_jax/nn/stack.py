"""A tower of equal layers, unrolled or scanned over one set of stacked parameters."""

from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

Remat = Literal["none", "dots", "full"]
# What of a layer is kept for the backward pass; the rest is computed again there. "none" keeps everything, "dots" the
# results of the projections (but not attention's products of two activations, nor what is computed element by element),
# "full" nothing but the layer's input. Whatever is computed again is so in a loop over the layers: of an unrolled tower
# XLA computes it before it is needed, on CPU, and then has all of it in memory nevertheless.
POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


def stack(
    layer: nn.Module, x: Float[Array, "B L D"], *context, count: int, scan: bool = False, remat: Remat = "none"
) -> tuple[Float[Array, "B L D"], Float[Array, "N B L D"]]:
    """Applies `count` copies of `layer` in turn; returns the last output and all of them.

    Parameters have a leading axis `N` in both forms, so a checkpoint of one is a checkpoint of the other.

    Args:
        layer: a module of the calling module's scope, called as `layer(x, *context)`.
        context: what every layer sees unchanged (lengths, sequence ids, train).
        scan: one traced layer in a loop (compiles fast) in place of `count` unrolled ones (runs faster).
        remat: what of a layer is computed again in the backward pass (`POLICIES`); implies `scan`.
    """

    def apply(layer, x):  # closes over the context, since `nn.remat` would trace an argument such as `train`
        # In a loop XLA does not find out by itself that rows stay where they are, and splits activations as parameters.
        x = nn.with_logical_constraint(layer(x, *context), ("B", None, None))
        return x, x

    if remat != "none":
        apply = nn.remat(apply, prevent_cse=False, policy=POLICIES[remat])
    return nn.scan(
        lambda layer, x, _: apply(layer, x),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=count,
        unroll=1 if scan or remat != "none" else count,
        metadata_params={nn.PARTITION_NAME: "N"},
    )(layer, x, None)

"""A learned average of several layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Mix(nn.Module):
    """`scale` times the mean of the layers under the softmax of `weights` (Peters et al. 2018, arXiv 1802.05365,
    equation 1); it starts as their plain mean."""

    @nn.compact
    def __call__(self, layers: Float[Array, "N B L D"]) -> Float[Array, "B L D"]:
        weights = self.param("weights", nn.with_logical_partitioning(nn.initializers.zeros, ("N",)), layers.shape[:1])
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * jnp.tensordot(jax.nn.softmax(weights), layers.astype(jnp.float32), axes=1)

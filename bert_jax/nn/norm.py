"""Layer normalisation with float32 statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LayerNorm(nn.Module):
    """Normalises the last axis; mean and variance in float32, two-pass.

    Attributes:
        epsilon: 1e-12, what `tf.contrib.layers.layer_norm` adds to the variance (modeling.py:362-365).
        use_bias: whether there is one.
    """

    epsilon: float = 1e-12
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x = x.astype(jnp.float32)
        shape = x.shape[-1:]
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("D",)), shape)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon) * scale
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("D",)), shape)

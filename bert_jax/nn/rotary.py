"""Rotary positions: queries and keys are turned by angles that grow with the position (Su et al. 2021, arXiv
2104.09864, section 3.4)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def frequencies(head_width: int, theta: float) -> Float[np.ndarray, " half"]:
    """Radians a position turns each pair of features by: theta ** (-2 i / K) for pair i of K / 2.

    Rounded to float32 where PyTorch's models round (`transformers`, `compute_default_rope_parameters`): the angles of
    far positions depend on the last bit.
    Raises ValueError for an odd `head_width`, of which one feature would be left over.
    """
    if head_width % 2:
        raise ValueError(f"rotary positions turn pairs of features, and a head has {head_width}: take an even width")
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    return np.float32(1) / (np.float64(theta) ** exponents).astype(np.float32)


def turns(
    positions: Int[Array, "B L"], rates: Float[np.ndarray, " half"] | Float[Array, " half"]
) -> Float[Array, "2 B L half"]:
    """Cosine and sine of the angle of each pair of features at each position."""
    angles = positions[..., None].astype(jnp.float32) * rates
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


def rotate(x: Float[Array, "B H L K"], turned: Float[Array, "2 #B L half"]) -> Float[Array, "B H L K"]:
    """Turns each pair of features by its angle, in float32; feature i is paired with feature i + K / 2."""
    cosine, sine = turned[:, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)

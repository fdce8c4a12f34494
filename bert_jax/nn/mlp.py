"""The feed-forward block and its activations."""

import functools
from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from bert_jax.nn.dot import ComputeDtype
from bert_jax.nn.linear import INIT_STDDEV, Linear

Activation = Literal["gelu_tanh", "gelu", "relu"]

# modeling.py:264-277: the original's GELU is the tanh approximation; `gelu` is the exact one (erf).
ACTIVATIONS = {
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
}


class Mlp(nn.Module):
    """Widen, activate, narrow (modeling.py:866-876).

    The narrowing kernel is stored `[D, F]`: its gradient then transposes the narrow operand, which is the cheaper one.
    """

    width: int
    activation: Activation = "gelu_tanh"
    stddev: float = INIT_STDDEV
    dtype: ComputeDtype = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        wide = Linear("BLD,DF->BLF", (self.width,), stddev=self.stddev, dtype=self.dtype, name="widen")(x)
        wide = ACTIVATIONS[self.activation](wide)
        return Linear("BLF,DF->BLD", (x.shape[-1],), stddev=self.stddev, dtype=self.dtype, name="narrow")(wide)

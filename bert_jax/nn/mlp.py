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

    Attributes:
        narrow_stddev: of that kernel; that of the other one if not given.
    """

    width: int
    activation: Activation = "gelu_tanh"
    stddev: float = INIT_STDDEV
    dtype: ComputeDtype = "auto"
    narrow_stddev: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        wide = Linear("BLD,DF->BLF", (self.width,), stddev=self.stddev, dtype=self.dtype, name="widen")(x)
        wide = ACTIVATIONS[self.activation](wide)
        stddev = self.stddev if self.narrow_stddev is None else self.narrow_stddev
        return Linear("BLF,DF->BLD", (x.shape[-1],), stddev=stddev, dtype=self.dtype, name="narrow")(wide)


class GatedMlp(nn.Module):
    """Widen twice, one of the two activated and multiplied with the other, narrow; no biases: with GELU the GeGLU of
    Shazeer 2020 (arXiv 2002.05202).

    Attributes:
        stddev, narrow_stddev: of the widening kernels and of the narrowing one.
    """

    width: int
    activation: Activation
    stddev: float
    narrow_stddev: float
    dtype: ComputeDtype = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The kernel of `widen` is [D, 2, F]: first what is activated, then the gate."""
        wide, gate = Linear("BLD,DGF->GBLF", (2, self.width), self.stddev, False, self.dtype, name="widen")(x)
        wide = ACTIVATIONS[self.activation](wide) * gate
        return Linear("BLF,DF->BLD", (x.shape[-1],), self.narrow_stddev, False, self.dtype, name="narrow")(wide)

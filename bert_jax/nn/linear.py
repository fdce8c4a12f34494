"""Projections and tables: one module each, their shapes and axis names read from letters."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bert_jax.nn.dot import ComputeDtype, compute_dtype, dot

# modeling.py:375-377: a normal cut at two standard deviations and not rescaled, so its real deviation is 0.88 x stddev.
INIT_STDDEV = 0.02


def kernel_init(stddev: float = INIT_STDDEV) -> Callable:
    """Truncated normal at +-2 stddev, as TF's `truncated_normal_initializer`."""
    return nn.initializers.truncated_normal(stddev, lower=-2.0, upper=2.0)


class Linear(nn.Module):
    """`dot(equation, x, kernel) + bias`, e.g. `Linear("BLD,DF->BLF", (3072,))`.

    Attributes:
        equation: einsum of the input and the kernel; its letters name the parameter axes for sharding.
        features: sizes of the kernel letters that the input lacks, in the kernel's order; the bias has these axes.
        stddev: of the kernel's truncated normal; biases start at zero.
        dtype: of the dot's operands; the result is float32.
    """

    equation: str
    features: tuple[int, ...]
    stddev: float = INIT_STDDEV
    use_bias: bool = True
    dtype: ComputeDtype = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        inputs, kernel_axes, outputs = self.equation.replace("->", ",").split(",")
        sizes = dict(zip(inputs, x.shape, strict=True))
        bias_axes = "".join(letter for letter in kernel_axes if letter not in sizes)
        sizes |= dict(zip(bias_axes, self.features, strict=True))
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(kernel_init(self.stddev), tuple(kernel_axes)),
            tuple(sizes[letter] for letter in kernel_axes),
        )
        y = dot(self.equation, x, kernel, compute_dtype(self.dtype))
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, tuple(bias_axes)), self.features)
        return y + jnp.expand_dims(bias, [i for i, letter in enumerate(outputs) if letter not in bias_axes])


class Table(nn.Module):
    """A learned row for each index: tokens, positions, segments.

    Attributes:
        axes: two letters, `VD` for tokens, `SD` for segments; positions are `LD`.
        shape: the sizes of these axes.
    """

    axes: str
    shape: tuple[int, int]
    stddev: float = INIT_STDDEV

    def setup(self):
        init = nn.with_logical_partitioning(kernel_init(self.stddev), tuple(self.axes))
        self.table = self.param("table", init, self.shape)

    def __call__(self, indices: Int[Array, "..."]) -> Float[Array, "... width"]:
        # An index outside the table gives NaN, and so a loss that names its step, not the wrong row.
        return jnp.take(self.table, indices, axis=0, mode="fill")

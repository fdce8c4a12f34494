"""The one matrix product that every layer goes through: compute dtype in, float32 accumulation and result out."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ComputeDtype = Literal["auto", "float32", "bfloat16"]


def compute_dtype(name: ComputeDtype) -> jnp.dtype:
    """The operand dtype of dots: `auto` is float32 on CPU (where bfloat16 gains nothing) and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def dot(equation: str, a: Float[Array, "..."], b: Float[Array, "..."], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Einsum of two arrays: operands rounded to `dtype`, products summed in float32, result float32.

    Each letter of an operand must stand in the other operand or in the result, so that the two gradients are einsums of
    the same kind; they round the cotangent to `dtype` too (float32 cotangents would leave the tensor cores).
    float32 means float32 on every backend: not TF32 on GPU, not three bfloat16 passes on TPU.
    """
    if dtype == jnp.float32:
        return jnp.einsum(
            equation,
            a.astype(dtype),
            b.astype(dtype),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
    return _low_precision(equation, dtype, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _low_precision(equation, dtype, a, b):
    return _product(equation, dtype, a, b)


def _product(equation, dtype, a, b):
    return jnp.einsum(equation, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


def _forward(equation, dtype, a, b):
    # The empty slices carry the dtypes that the gradients must have. Not a call of the function itself: what is to be
    # kept for a backward pass is chosen among dots (`nn.stack.POLICIES`), and does not see one inside of it.
    return _product(equation, dtype, a, b), (a.astype(dtype), b.astype(dtype), a[:0], b[:0])


def _backward(equation, dtype, residuals, cotangent):
    a, b, like_a, like_b = residuals
    left, right, out = equation.replace("->", ",").split(",")
    # A float32 parameter gets its gradient as it was summed, in float32.
    grad_a = _low_precision(f"{out},{right}->{left}", dtype, cotangent, b)
    grad_b = _low_precision(f"{left},{out}->{right}", dtype, a, cotangent)
    return grad_a.astype(like_a.dtype), grad_b.astype(like_b.dtype)


_low_precision.defvjp(_forward, _backward)

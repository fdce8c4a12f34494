"""The discrete Fourier transform that mixes tokens (Lee-Thorp et al. 2021, arXiv 2105.03824, section 3.2)."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bert_jax.nn.dot import ComputeDtype, compute_dtype, dot

# How it is computed: by the fast algorithm, or by products with the matrices of the transform, which the original has
# for TPUs (google-research/f_net `models.py`, `use_fft`). XLA gathers all rows of a batch that devices split for the
# former; the latter stays where the rows are.
FourierKind = Literal["fft", "matmul"]


def fourier(x: Float[Array, "B L D"], kind: FourierKind = "fft", dtype: ComputeDtype = "auto") -> Float[Array, "B L D"]:
    """The real part of the transform over the tokens of each row and over their features, not scaled.

    Args:
        dtype: of the operands of the products; "fft" is float32.
    """
    if kind == "fft":
        return jnp.fft.fftn(x.astype(jnp.float32), axes=(1, 2)).real
    _, length, width = x.shape
    found = []
    for in_tokens, in_features in zip(waves(length), waves(width), strict=True):
        half = dot("BLD,DE->BLE", x, jnp.asarray(in_features), compute_dtype(dtype))
        # The matrix first: XLA's CPU has no bfloat16 product that contracts the first axis of a matrix on the right.
        found.append(dot("ML,BLE->BME", jnp.asarray(in_tokens), half, compute_dtype(dtype)))
    return found[0] - found[1]  # i * i = -1


def waves(size: int) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Real part and negative imaginary part of the transform's matrix, which is symmetric."""
    index = np.arange(size)
    angle = 2 * np.pi / size * (np.outer(index, index) % size)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

"""How much of the hardware a step uses: the multiplications of a function, and what a device can do at most.

Model flop utilisation (MFU) is 3 times the forward pass's dots (the backward pass has two for each) over seconds times
peak; what recomputation adds is no use to the model and is not counted (PaLM, arXiv:2204.02311, appendix B).
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# Dense bfloat16 peaks (no structured sparsity) in flop/s of one JAX device, by a word of its `device_kind`; the first
# word that it contains counts. NVIDIA: the data sheets; where they give only the number with sparsity, half of it.
# TPU: cloud.google.com/tpu/docs, a page a version; v2 and v3 chips are two JAX devices, one a core.
PEAKS = {
    "H200": 989e12,  # SXM: 1,979 with sparsity
    "H100 PCIe": 756e12,  # 1,513 with sparsity
    "H100 NVL": 835e12,  # 1,671 with sparsity
    "H100": 989e12,  # SXM: 1,979 with sparsity
    "A100": 312e12,
    "V100": 125e12,  # SXM2, float16: it has no bfloat16
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # as JAX calls v5e
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,  # as JAX calls v6e
}


def dot_flops(fn: Callable, *args: Any) -> int:
    """Floating-point operations of the dots in `fn(*args)`, two for each multiply-add; nothing is computed.

    Counts `dot_general` wherever it stands: in a function called, differentiated or recomputed, as often as a scan
    repeats it, and of several branches in the one with most. Arguments may be arrays or `jax.ShapeDtypeStruct`s. What
    is computed outside of JAX's own operations (cuDNN's attention) is not seen.

    Raises NotImplementedError for a dot in a `while` loop, a `shard_map` or a Pallas kernel: how often it is computed
    is not known there.
    """
    return _dots(jax.make_jaxpr(fn)(*args).jaxpr)


def peak_flops(device: jax.Device, dtype: Any = jnp.bfloat16) -> float:
    """The most floating-point operations a second that dots of `dtype` reach on one `device`.

    Of an accelerator the data sheet's dense bfloat16 number, whatever `dtype`. Of a CPU, which has no such number, what
    a matrix product of `dtype` was just measured to reach over all cores of the process divided by the CPU devices that
    share them: there MFU is the share of the measured matmul peak. That takes about half a second, once. NaN for an
    accelerator that is not in the table.
    """
    if device.platform == "cpu":
        return _measured_cpu_peak(jnp.dtype(dtype).name) / jax.local_device_count("cpu")
    return next((peak for word, peak in PEAKS.items() if word.lower() in device.device_kind.lower()), math.nan)


@functools.cache
def _measured_cpu_peak(dtype: str, size: int = 1024, seconds: float = 0.2) -> float:
    """Best of the runs of a `size` x `size` product that fit in `seconds`, at least three."""
    device = jax.local_devices(backend="cpu")[0]
    x = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
    product(x).block_until_ready()
    best, runs, end = math.inf, 0, time.perf_counter() + seconds
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        product(x).block_until_ready()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return 2 * size**3 / best


def _dots(jaxpr: core.Jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    inner = [_dots(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    if name in ("while", "shard_map", "pallas_call") and any(inner):
        raise NotImplementedError(f"a dot inside {name}: how often it is computed is not known")
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, (list, tuple)):
        return [jaxpr for item in value for jaxpr in _jaxprs(item)]
    return []

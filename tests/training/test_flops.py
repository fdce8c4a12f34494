"""The count of multiplications, against counts by hand, and the table of peaks."""

import inspect
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from bert_jax.training.flops import dot_flops, peak_flops

A = jax.ShapeDtypeStruct((3, 5), jnp.float32)
B = jax.ShapeDtypeStruct((5, 7), jnp.float32)
AB = 2 * 3 * 5 * 7  # flop of A @ B


@jax.custom_vjp
def product(a, b):
    return a @ b


product.defvjp(lambda a, b: (a @ b, (a, b)), lambda ab, g: (g @ ab[1].T, ab[0].T @ g))


@pytest.mark.parametrize(
    ("fn", "count"),
    [
        (lambda a, b: a + b.sum(), 0),
        (lambda a, b: a @ b, 1),
        (lambda a, b: (a @ b).T @ a, 2),  # 7x3 @ 3x5 is as much again
        (jax.jit(lambda a, b: jax.jit(jnp.matmul)(a, b)), 1),
        (jax.checkpoint(lambda a, b: jnp.sin(a @ b)), 1),
        (product, 1),
        (lambda a, b: jax.vmap(product, in_axes=(0, None))(jnp.stack([a] * 4), b), 4),
        (jax.value_and_grad(lambda a, b: product(a, b).sum(), argnums=(0, 1)), 3),
        (jax.value_and_grad(lambda a, b: (a @ b).sum(), argnums=(0, 1)), 3),
        (lambda a, b: jax.lax.scan(lambda c, _: (c, a @ b), 0.0, length=6)[1], 6),
        (lambda a, b: jax.lax.scan(lambda c, _: (c, jax.lax.map(lambda x: x @ b, a)), 0.0, length=6)[1], 6),
        (lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: (a @ b) @ (b.T @ b), lambda: a @ b), 1 + (7 * 5 + 3 * 7) / 15),
        (lambda a, b: jnp.where(a.sum() > jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, 0), a @ b, 0), 1),
    ],
    ids=["none", "dot", "two", "jit", "remat", "custom_vjp", "vmap", "custom_grad", "grad", "scan", "nested", "cond",
         "while"],
)  # fmt: skip
def test_counts_by_hand(fn, count):
    """2 M N K for every dot, wherever it stands."""
    assert dot_flops(fn, A, B) == round(count * AB)


def test_attention_by_hand():
    """Batch and head axes of an einsum count once each: 2 B H L M K for scores, as much again for the values."""
    q = jax.ShapeDtypeStruct((2, 16, 3, 8), jnp.bfloat16)

    def attention(q, k, v):
        return jnp.einsum("BHLM,BMHK->BLHK", jax.nn.softmax(jnp.einsum("BLHK,BMHK->BHLM", q, k)), v)

    assert dot_flops(attention, q, q, q) == 2 * (2 * 2 * 3 * 16 * 16 * 8)


def test_recomputation_is_counted_where_it_is_traced():
    """The forward pass alone is what MFU counts: the gradient of a rematerialised function has dots again."""

    def loss(a, b):
        return jnp.sin(jax.checkpoint(lambda a: jnp.sin(a @ b) @ b.T)(a)).sum()

    forward = dot_flops(loss, A, B)
    assert forward == 2 * AB
    assert dot_flops(jax.grad(loss), A, B) > 2 * forward


def test_unknown_repetition_is_refused():
    """A dot in a while loop is not silently counted once."""
    with pytest.raises(NotImplementedError, match="while"):
        dot_flops(lambda a, b: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x.T @ a, a) + b.sum(), A, B)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12),
     ("NVIDIA A100-SXM4-80GB", 312e12), ("Tesla V100-SXM2-16GB", 125e12), ("TPU v2", 22.5e12), ("TPU v4", 275e12),
     ("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v5p", 459e12), ("TPU v6 lite", 918e12)],
)  # fmt: skip
def test_peaks_by_device_kind(kind, peak):
    """The names that devices go by find their row."""
    assert peak_of(kind) == peak


def test_unknown_accelerator():
    """No number is invented: MFU is then not a number."""
    assert math.isnan(peak_of("Some new chip"))


def peak_of(kind):
    return inspect.unwrap(peak_flops)(SimpleNamespace(platform="gpu", device_kind=kind))  # without its type check


def test_cpu_peak_is_measured():
    """Plausible for any CPU, measured once a dtype, and shared by the devices of the process."""
    device = jax.devices("cpu")[0]
    for dtype in (jnp.float32, jnp.bfloat16):
        peak = peak_flops(device, dtype)
        assert 1e9 < peak * jax.local_device_count("cpu") < 1e14
        assert peak_flops(device, dtype) == peak

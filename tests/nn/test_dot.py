"""The one matrix product: what is rounded, what is summed in which precision, and what its gradients are."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bert_jax
from bert_jax.nn.dot import compute_dtype, dot

SIZES = dict(zip("BLMDEHKJFGVPCRSX", (3, 5, 7, 16, 12, 2, 8, 3, 32, 2, 29, 4, 2, 6, 2, 24), strict=True))
SOURCES = Path(bert_jax.__file__).parent.rglob("*.py")
EQUATIONS = sorted({found for path in SOURCES for found in re.findall(r'"([A-Z]+,[A-Z]+->[A-Z]+)"', path.read_text())})
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
UNIT = 2.0**-24  # the largest relative error of rounding to float32


def test_the_equations_of_the_project_are_found():
    """A changed way of writing equations must not leave the tests below without any."""
    assert {"BLD,DF->BLF", "BLD,DJHK->JBHLK", "BHLK,BHMK->BHLM", "BPE,VE->BPV"} <= set(EQUATIONS)


def operands(equation, seed=0):
    """Two random operands and a cotangent, float32."""
    letters = equation.replace("->", ",").split(",")
    rng = np.random.default_rng(seed)
    return [rng.normal(size=[SIZES[x] for x in part]).astype(np.float32) for part in letters]


def contracted(equation):
    """How many products are added up for one element of the result."""
    left, right, out = equation.replace("->", ",").split(",")
    return int(np.prod([SIZES[x] for x in set(left + right) - set(out)]))


def exact(equation, a, b):
    """The einsum in float64, and that of the absolute values, which rounding errors are proportional to."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.einsum(equation, a, b), np.einsum(equation, abs(a), abs(b))


def bfloat16(x):
    """Rounded, then widened again."""
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


@functools.cache
def product(equation, dtype):
    return jax.jit(lambda a, b: dot(equation, a, b, dtype))


@functools.cache
def gradients(equation, dtype):
    return jax.jit(lambda a, b, cotangent: jax.vjp(lambda a, b: dot(equation, a, b, dtype), a, b)[1](cotangent))


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_is_the_exact_product_of_the_rounded_operands_summed_in_float32(equation, dtype):
    """n products in float32, in whatever order, err by at most n units of the sum of magnitudes; bfloat16 sums would
    by tens of thousands."""
    a, b, _ = operands(equation)
    result = product(equation, dtype)(a, b)
    want, magnitude = exact(equation, *((a, b) if dtype == FLOAT32 else (bfloat16(a), bfloat16(b))))
    assert result.dtype == jnp.float32
    assert np.all(abs(result - want) <= (contracted(equation) + 1) * UNIT * magnitude)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_float32_is_plain_einsum(equation):
    """The function adds nothing of its own to the float32 path, forward and backward."""
    a, b, cotangent = operands(equation)
    plain = functools.partial(jnp.einsum, equation, precision="highest")
    np.testing.assert_array_equal(product(equation, FLOAT32)(a, b), jax.jit(plain)(a, b))
    for got, want in zip(
        gradients(equation, FLOAT32)(a, b, cotangent),
        jax.jit(lambda a, b, c: jax.vjp(plain, a, b)[1](c))(a, b, cotangent),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_bfloat16_gradients_round_operands_cotangent_and_result_only(equation):
    """Against float64: three roundings of at most 2**-8 each, one to each factor of a product and one to the result;
    and the gradient of a float32 parameter is float32."""
    a, b, cotangent = operands(equation)
    left, right, out = equation.replace("->", ",").split(",")
    got_a, got_b = gradients(equation, BFLOAT16)(a, b, cotangent)
    for got, (want, magnitude) in (
        (got_a, exact(f"{out},{right}->{left}", cotangent, b)),
        (got_b, exact(f"{left},{out}->{right}", a, cotangent)),
    ):
        assert got.dtype == jnp.float32
        assert np.all(abs(got - want) <= 1.01 * 2**-8 * (2 * magnitude + abs(want)))


def test_auto_is_float32_on_cpu():
    """The default compute dtype of a machine without an accelerator, which the other tests rely on."""
    assert compute_dtype("auto") == FLOAT32
    assert compute_dtype("bfloat16") == BFLOAT16

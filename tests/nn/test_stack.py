"""A tower of layers is the same function with the same parameters, unrolled, looped or recomputed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.nn.dropout import Dropout
from bert_jax.nn.linear import Linear
from bert_jax.nn.stack import stack

N = 3
FORMS = {
    "unrolled": (False, "none"),
    "scan": (True, "none"),
    "full": (False, "full"),
    "scan, full": (True, "full"),
    "dots": (False, "dots"),
    "scan, dots": (True, "dots"),
}
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 8)), jnp.float32)
LENGTHS = jnp.array([4, 2])


class ToyLayer(nn.Module):
    """Everything that a real layer depends on: parameters, dropout, an array and a Python value of the context."""

    @nn.compact
    def __call__(self, x, lengths, train: bool):
        y = jnp.tanh(Linear("BLD,DE->BLE", (8,), stddev=0.5, name="dense")(x)) * lengths[:, None, None]
        return x + Dropout(0.3)(y, train)


class Tower(nn.Module):
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, x, lengths, train: bool):
        return stack(ToyLayer(name="layers"), x, lengths, train, count=N, scan=self.scan, remat=self.remat)


def run(form):
    """Boxed initial parameters, outputs and gradients with dropout."""
    tower = Tower(*FORMS[form])

    @jax.jit
    def both():
        boxed = tower.init(jax.random.key(0), X, LENGTHS, False)["params"]

        def loss(params):
            last, layers = tower.apply({"params": params}, X, LENGTHS, True, rngs={"dropout": jax.random.key(1)})
            return jnp.sum(jnp.square(last)), (last, layers)

        (_, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(nn.unbox(boxed))
        return boxed, outputs, gradients

    return both()


@pytest.fixture(scope="module")
def unrolled():
    return run("unrolled")


@pytest.mark.parametrize("form", list(FORMS)[1:])
def test_forms_agree(form, unrolled):
    """Same tree, shapes, axis names and initial values; same outputs and gradients with dropout on."""
    boxed, outputs, gradients = run(form)
    assert jax.tree.structure(boxed) == jax.tree.structure(unrolled[0])
    for got, want in zip(jax.tree.leaves((boxed, outputs, gradients)), jax.tree.leaves(unrolled), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_parameters_have_a_leading_layer_axis(unrolled):
    """Named N, for sharding; each layer has initial values of its own."""
    dense = unrolled[0]["layers"]["dense"]
    assert dense["kernel"].names == ("N", "D", "E")
    kernels = np.asarray(dense["kernel"].value)
    assert kernels.shape == (N, 8, 8)
    assert len({kernel.tobytes() for kernel in kernels}) == N


def test_is_the_layers_one_after_another(unrolled):
    """Without dropout: layer by layer with its own slice of the parameters; all outputs are returned, the last one
    twice."""
    params = nn.unbox(unrolled[0])
    last, layers = jax.jit(lambda p: Tower().apply({"params": p}, X, LENGTHS, False))(params)
    x = X
    for i in range(N):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        x = ToyLayer().apply({"params": own}, x, LENGTHS, False)
        np.testing.assert_allclose(layers[i], x, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(last, layers[-1])


class NumberedLayer(nn.Module):
    """Says which it is, and whose parameters it has: bias 0 for all, but for what it is given."""

    @nn.compact
    def __call__(self, x, number):
        return x * 0 + 10 * number + Linear("BLD,DE->BLE", (8,), name="dense")(x * 0)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("sets", [6, 3, 2, 1])
def test_layers_that_share_parameters(sets, scan):
    """6 / `sets` in a row use one set; each has its own number."""

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            return stack(NumberedLayer(name="layers"), x, count=6, sets=sets, scan=scan, numbered=True)

    shapes = nn.unbox(jax.eval_shape(Shared().init, jax.random.key(0), X)["params"])
    assert shapes["layers"]["dense"]["kernel"].shape == (sets, 8, 8)
    bias = jnp.broadcast_to(jnp.arange(sets, dtype=jnp.float32)[:, None], (sets, 8))
    params = {"layers": {"dense": {"kernel": jnp.zeros((sets, 8, 8)), "bias": bias}}}
    last, layers = jax.jit(lambda: Shared().apply({"params": params}, X))()
    assert layers[:, 0, 0, 0].tolist() == [10 * number + number // (6 // sets) for number in range(6)]
    np.testing.assert_array_equal(last, layers[-1])


@pytest.mark.parametrize("sets", [4, 0, 12])
def test_layers_that_cannot_be_dealt_out(sets):
    """Each set must serve as many layers."""
    with pytest.raises(ValueError, match=f"6 layers cannot share {sets} sets"):
        stack(ToyLayer(name="layers"), X, count=6, sets=sets)


@pytest.mark.parametrize("form", ["unrolled", "scan"])
def test_each_layer_has_its_own_dropout(form):
    """Layers that add a constant show their masks: three different ones."""
    params = {"layers": {"dense": {"kernel": jnp.zeros((N, 8, 8)), "bias": jnp.ones((N, 8))}}}
    apply = jax.jit(
        lambda: Tower(*FORMS[form]).apply({"params": params}, X, LENGTHS, True, rngs={"dropout": jax.random.key(2)})[1]
    )
    steps = np.diff(np.concatenate([X[None], apply()]), axis=0)
    assert len({(abs(step) > 0.1).tobytes() for step in steps}) == N

"""The learned average of layers."""

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.nn.mix import Mix

LAYERS = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)


def test_it_starts_as_the_mean():
    """With weights of zero and a scale of one."""
    (got, variables) = jax.jit(lambda x: Mix().init_with_output(jax.random.key(0), x))(LAYERS)
    np.testing.assert_allclose(got, LAYERS.mean(axis=0), atol=1e-6)
    assert variables["params"]["scale"] == 1.0


def test_weights_are_shares():
    """Under a softmax; the sum is scaled."""
    params = {"weights": jnp.log(jnp.array([1.0, 2, 5])), "scale": jnp.float32(2)}
    got = jax.jit(lambda x: Mix().apply({"params": params}, x))(LAYERS)
    np.testing.assert_allclose(got, 2 * np.tensordot([1 / 8, 2 / 8, 5 / 8], LAYERS, axes=1), atol=1e-6)

"""Tagging by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.models.encoded import Encoded
from bert_jax.objectives.tag import Tag

PARAMS = {"output": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
# Probabilities: 5/7 1/7 1/7 at the tokens of log 5, a third each at the others.
HIDDEN = jnp.zeros((2, 3, 3)).at[0, 1, 0].set(math.log(5)).at[1, 0, 2].set(math.log(5))
ENCODED = Encoded(HIDDEN, None, jnp.zeros((5, 3)), {})


def test_only_tagged_tokens_of_real_rows_count():
    """Loss and accuracy over the tokens whose tag is not negative, in rows that have a weight."""
    batch = {"tags": jnp.array([[-1, 0, -1], [1, -1, 2]]), "weight": jnp.array([1.0, 0.0])}
    apply = jax.jit(lambda batch: Tag(3).apply({"params": PARAMS}, ENCODED, batch, False))
    got = apply(batch)
    np.testing.assert_allclose(got["loss"].value, -math.log(5 / 7), rtol=1e-6)
    assert got["accuracy"] == (1, 1)
    got = apply(batch | {"weight": jnp.ones(2)})
    np.testing.assert_allclose(got["loss"].total, -math.log(5 / 7) - math.log(1 / 7) + math.log(3), rtol=1e-6)
    assert got["accuracy"].count == 3


def test_probabilities():
    """Of each token, whatever its tag."""
    got = jax.jit(lambda: Tag(3).apply({"params": PARAMS}, ENCODED, {}, method="predict"))()["probabilities"]
    np.testing.assert_allclose(got[0, 1], [5 / 7, 1 / 7, 1 / 7], rtol=1e-6)
    np.testing.assert_allclose(got[0, 0], [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)

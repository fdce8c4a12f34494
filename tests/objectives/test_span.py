"""Spans by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.encoded import Encoded
from bert_jax.objectives.span import Span

# Logits are the two hidden states. Probabilities of the places of row 0: start 1/6 3/6 2/6, end 1/4 1/4 2/4; of row 1:
# start 1/3 each, end 2/3 1/6 1/6.
PARAMS = {"output": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}
HIDDEN = jnp.log(jnp.array([[[1.0, 1], [3, 1], [2, 2]], [[1, 4], [1, 1], [1, 1]]]))


@jax.jit
def metrics(hidden, spans, weights):
    encoded = Encoded(hidden, None, jnp.zeros((5, 2)), {})
    return Span().apply({"params": PARAMS}, encoded, {"span": spans, "weight": weights}, True)


def test_loss_and_accuracy():
    """Half the sum of the two losses (run_squad.py:640-660), each over all places; right is both ends right."""
    got = metrics(HIDDEN, jnp.array([[1, 2], [0, 0]]), jnp.ones(2))
    wanted = -(math.log(3 / 6) + math.log(2 / 4) + math.log(1 / 3) + math.log(4 / 6)) / 2
    np.testing.assert_allclose(got["loss"].total, wanted, rtol=1e-6)
    assert got["loss"].count == 2 and got["accuracy"] == (2, 2)
    assert metrics(HIDDEN, jnp.array([[1, 1], [0, 1]]), jnp.ones(2))["accuracy"] == (0, 2)


def test_padding_is_no_place():
    """The loss is that of the row without its padding, whatever stands there, and padding gets no gradient."""
    batch = {"span": jnp.array([[1, 0], [0, 0]]), "weight": jnp.ones(2), "lengths": jnp.array([2, 3])}

    @jax.jit
    def loss(hidden):
        return Span().apply({"params": PARAMS}, Encoded(hidden, None, jnp.zeros((5, 2)), {}), batch, True)["loss"].total

    wanted = -(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 3) + math.log(4 / 6)) / 2
    for anything in (0.0, 50.0):
        hidden = HIDDEN.at[0, 2].set(anything)
        np.testing.assert_allclose(loss(hidden), wanted, rtol=1e-6)
        gradient = jax.grad(loss)(hidden)
        assert not np.any(gradient[0, 2]) and np.all(gradient[1] != 0)


def test_padding_can_be_a_place_as_in_the_original():
    """`over_padding` gives the loss of the whole row; in packed rows, which have no padding, it is refused."""
    batch = {"span": jnp.array([[1, 0], [0, 0]]), "weight": jnp.ones(2), "lengths": jnp.array([2, 3])}
    loss = lambda head, batch: head.apply(  # noqa: E731
        {"params": PARAMS}, Encoded(HIDDEN, None, jnp.zeros((5, 2)), {}), batch, True
    )["loss"]
    without = {name: value for name, value in batch.items() if name != "lengths"}
    assert loss(Span(over_padding=True), batch) == loss(Span(), without) != loss(Span(), batch)
    with pytest.raises(ValueError, match='set padding to "full"'):
        loss(Span(over_padding=True), batch | {"packing": jnp.zeros((1, 1, 3), jnp.int32)})


def test_filler_rows_count_for_nothing():
    """Weight 0 takes a row out of both sums, even one of NaN."""
    got = metrics(HIDDEN.at[1].set(jnp.nan), jnp.array([[1, 0], [0, 0]]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(got["loss"].value, -(math.log(3 / 6) + math.log(1 / 4)) / 2, rtol=1e-6)
    assert got["accuracy"] == (0, 1) and got["loss"].count == 1


def test_logits():
    """Start and end of each token, for `predict` and `outputs` alike, which read no span."""
    encoded = Encoded(HIDDEN, None, jnp.zeros((5, 2)), {})
    predicted = Span().apply({"params": PARAMS}, encoded, {}, method="predict")["logits"]
    np.testing.assert_allclose(predicted, HIDDEN, rtol=1e-6)
    np.testing.assert_array_equal(Span().apply({"params": PARAMS}, encoded, method="outputs")["logits"], predicted)

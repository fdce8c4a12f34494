"""Multiple choice by hand: rows that share a softmax, and rows that only fill up a question."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.encoded import Encoded
from bert_jax.objectives.choice import Choice

HEAD = Choice(num_choices=3, dropout=0.0)
PARAMS = {"output": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
# Scores of two questions: probabilities 1/6 2/6 3/6, and 4/5 1/5 beside a row of the highest score that is no choice.
SCORES = jnp.log(jnp.array([1.0, 2, 3, 4, 1, 90]))
MASK = jnp.array([True, True, True, True, True, False])


def encoded(scores):
    return Encoded(jnp.zeros((len(scores), 2, 1)), scores[:, None], jnp.zeros((5, 1)), {})


def metrics(scores, labels, weights=(1.0, 1.0), mask=MASK, head=HEAD):
    batch = {"label": jnp.repeat(jnp.array(labels), 3), "weight": jnp.repeat(jnp.array(weights), 3)}
    return head.apply(
        {"params": PARAMS}, encoded(scores), batch | ({} if mask is None else {"choice_mask": mask}), True
    )


def test_loss_and_accuracy():
    """One label, one weight and one softmax for the rows of a question."""
    got = metrics(SCORES, [1, 0], mask=None)
    np.testing.assert_allclose(got["loss"].total, -math.log(2 / 6) - math.log(4 / 95), rtol=1e-6)
    assert got["loss"].count == 2 and got["accuracy"] == (0, 2)
    assert metrics(SCORES, [2, 2], mask=None)["accuracy"] == (2, 2)
    np.testing.assert_allclose(metrics(SCORES, [1, 0], (1.0, 0.0))["loss"].value, -math.log(2 / 6), rtol=1e-6)


def test_a_row_that_is_no_choice():
    """Has no part in loss, accuracy and probabilities, whatever its score."""
    for score in (90.0, 1e-30):
        scores = SCORES.at[5].set(jnp.log(score))
        got = metrics(scores, [2, 0])
        np.testing.assert_allclose(got["loss"].total, -math.log(3 / 6) - math.log(4 / 5), rtol=1e-6)
        assert got["accuracy"] == (2, 2)
        batch = {"choice_mask": MASK}
        shares = HEAD.apply({"params": PARAMS}, encoded(scores), batch, method="predict")["probabilities"]
        np.testing.assert_allclose(shares, [1 / 6, 2 / 6, 3 / 6, 4 / 5, 1 / 5, 0], rtol=1e-6)


def test_nothing_is_learned_of_a_row_that_is_no_choice():
    """Its gradient is 0, that of the others as if it were not there."""
    gradient = jax.grad(lambda scores: metrics(scores, [2, 0])["loss"].value)(SCORES)
    np.testing.assert_allclose(gradient, np.array([1 / 6, 2 / 6, -3 / 6, -1 / 5, 1 / 5, 0]) / 2, rtol=1e-5)
    assert gradient[5] == 0


def test_rows_that_make_no_questions():
    """Said while tracing: no number of choices, or another one than the batch was made for."""
    for number in (0, 4):
        with pytest.raises(ValueError, match=f"6 rows do not make questions of num_choices {number}"):
            metrics(SCORES, [0, 0], head=Choice(number, dropout=0.0))

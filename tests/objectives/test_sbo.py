"""The span-boundary objective: which tokens are predicted from which two, and the head by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, log_softmax

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.models.encoded import Encoded
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.sbo import Sbo, spans_of
from bert_jax.objectives.spans import Spans

D, V, L = 6, 11, 12
SBO = Sbo(longest=3, position_width=4)


def batch_of():
    """Rows of 12, 9 and 12 tokens: a span of four, of which three have a place, and one of one; one at the beginning of
    the row and one before its last but one token; one that reaches to the end."""
    weights = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]], np.float32)
    batch = {
        "mlm_positions": np.array([[2, 3, 4, 5, 8], [1, 2, 6, 0, 0], [4, 9, 10, 0, 0]], np.int32),
        "mlm_labels": np.random.default_rng(1).integers(0, V, (3, 5)).astype(np.int32),
        "mlm_weights": weights,
        "lengths": np.array([12, 9, 12], np.int32),
    }
    return jax.tree.map(jnp.asarray, batch)


def encoded_of(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return Encoded(draw(3, L, D), None, draw(V, D), {})


def params_of(objective=SBO):
    shapes = nn.unbox(jax.eval_shape(lambda: objective.init(jax.random.key(0), encoded_of(), batch_of(), False)))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def test_spans_are_runs_of_positions():
    """First and last of each; positions without a weight join nothing, not even position 0 the first token's."""
    places, weights = jnp.asarray([[2, 3, 4, 7, 8, 9, 11], [1, 2, 5, 0, 0, 0, 0]]), jnp.ones((2, 7)).at[1, 3:].set(0)
    first, last = spans_of(places, weights)
    np.testing.assert_array_equal(first[0], [2, 2, 2, 7, 7, 7, 11])
    np.testing.assert_array_equal(last[0], [4, 4, 4, 9, 9, 9, 11])
    np.testing.assert_array_equal((first[1, :3], last[1, :3]), ([1, 1, 5], [2, 2, 5]))


def by_hand(params, encoded, batch, row, place, first, last):
    """Log probabilities of one token: `MLPWithLayerNorm` over both tokens and the place, and the tied decoder."""
    p = jax.tree.map(np.asarray, params["params"])
    gelu = lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2)))  # noqa: E731

    def norm(x, scale, bias):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-12) * scale + bias

    hidden = np.asarray(encoded.hidden)[row]
    x = np.concatenate([hidden[first - 1], hidden[last + 1], p["positions"]["table"][place - first]])
    x = norm(gelu(x @ p["join"]["kernel"] + p["join"]["bias"]), **p["join_norm"])
    x = norm(gelu(x @ p["transform"]["kernel"] + p["transform"]["bias"]), **p["norm"])
    return log_softmax(np.asarray(encoded.table) @ x + p["bias"])


def test_head_by_hand():
    """Six tokens count: of the first row three of the span of four and the one of one, and one each of the others;
    those of spans at an end of the row do not, but that whose right neighbour is the last token before [SEP] does."""
    batch, encoded, params = batch_of(), encoded_of(), params_of()
    found = SBO.apply(params, encoded, batch, False)
    counted = [(0, 0, 2, 5), (0, 1, 2, 5), (0, 2, 2, 5), (0, 4, 8, 8), (1, 2, 6, 6), (2, 0, 4, 4)]
    losses, right = [], 0
    for row, column, first, last in counted:
        place, label = int(batch["mlm_positions"][row, column]), int(batch["mlm_labels"][row, column])
        scores = by_hand(params, encoded, batch, row, place, first, last)
        losses.append(-scores[label])
        right += scores.argmax() == label
    assert float(found["loss"].count) == len(counted)
    np.testing.assert_allclose(found["loss"].value, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"].total, right)


def test_it_sees_the_two_tokens_alone():
    """The loss depends on the hidden states around the spans, and on no other: not on those of the predicted tokens,
    which is what the objective is for."""
    batch, encoded, params = batch_of(), encoded_of(), params_of()

    def loss(hidden):
        return SBO.apply(params, encoded._replace(hidden=hidden), batch, False)["loss"].value

    seen = np.abs(np.asarray(jax.jit(jax.grad(loss))(encoded.hidden))).max(-1) > 0
    assert [np.flatnonzero(row).tolist() for row in seen] == [[1, 6, 7, 9], [5, 7], [3, 5]]


def test_beside_a_masked_language_model():
    """Both losses are summed, over the same corruption; a row that only fills a batch up counts in neither."""
    encoder = Bert(vocab_size=40, num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=32, pooler=False)
    mlm = Mlm(max_predictions=6, masking=Spans(), vocab_size=40, special_ids=(2, 3, 4))
    learner = Multitask(encoder, {"mlm": mlm, "sbo": Sbo()})
    tokens = np.random.default_rng(0).integers(5, 40, (4, 32), np.int32)
    tokens[:, 0], tokens[:, -1] = 2, 3
    batch = {"tokens": tokens, "lengths": np.full(4, 32, np.int32), "continues": tokens % 3 == 0}
    batch = jax.tree.map(jnp.asarray, batch | {"weight": np.array([1, 1, 1, 0], np.float32), "example": np.arange(4)})
    batch = jax.jit(learner.corrupt)(jax.random.key(0), 0, batch)
    params = jax.jit(learner.init)(jax.random.key(1), batch)
    metrics = jax.jit(learner.apply)(params, batch)
    np.testing.assert_allclose(learner.loss_of(metrics), metrics["mlm/loss"].value + metrics["sbo/loss"].value)
    assert 0 < metrics["sbo/loss"].count <= metrics["mlm/loss"].count == 15
    found = jax.eval_shape(lambda: learner.apply(params, batch, method="outputs"))
    assert "mlm_logits" in found and not any(name.startswith("sbo") for name in found)


def test_without_a_masked_language_model():
    """It says what it needs."""
    with pytest.raises(ValueError, match="give one before it"):
        SBO.init(jax.random.key(0), encoded_of(), {"lengths": jnp.ones(3, int)}, False)

"""ELECTRA's learner: what is drawn, what counts as replaced, and whose gradient goes where."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.learners.electra import GeneratorDiscriminator, drawn, replaced
from bert_jax.models.bert import Bert
from bert_jax.models.electra import Electra
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.rtd import Rtd

V, B, L = 30, 4, 10
MASK = 4
ENCODER = Electra(num_layers=1, width=16, embedding_width=8, num_heads=2, mlp_width=16, max_length=L, scan=True)
OBJECTIVES = {"mlm": Mlm(4, rate=0.4, mask_share=1.0, random_share=0.0, activation="gelu"), "rtd": Rtd()}
LEARNER = GeneratorDiscriminator(ENCODER, OBJECTIVES).for_vocabulary(V, (2, 3, MASK))
KEY = jax.random.key(0)


def batch_of(rows=B, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tokens": jnp.asarray(rng.integers(5, V, (rows, L)), jnp.int32).at[:, 0].set(2),
        "lengths": jnp.asarray(rng.integers(6, L + 1, rows), jnp.int32),
        "example": jnp.asarray(rng.permutation(1000)[:rows], jnp.uint32),
        "weight": jnp.ones(rows, jnp.float32),
    }


@pytest.fixture(scope="module")
def state():
    """A batch, corrupted, and parameters of a learner that does more than guess."""
    batch = jax.jit(LEARNER.corrupt)(KEY, 0, batch_of())
    params = nn.unbox(jax.jit(LEARNER.init)(KEY, batch)["params"])
    rng = np.random.default_rng(0)
    return batch, jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), params)


# ---- replaced or original ------------------------------------------------------------------------------------------


def test_labels_by_hand():
    """Of three drawn tokens the one that is the original again counts as original; a prediction of weight 0 writes
    nothing, also not over one that stands at the same place."""
    originals = jnp.array([[2, 11, 12, 13, 3], [2, 21, 22, 3, 0]])
    positions = jnp.array([[1, 2, 3], [2, 0, 0]])
    weights = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    tokens = replaced(originals, positions, weights, jnp.array([[17, 12, 18], [29, 8, 9]]))
    np.testing.assert_array_equal(tokens, [[2, 17, 12, 18, 3], [2, 21, 29, 3, 0]])
    np.testing.assert_array_equal(tokens != originals, [[0, 1, 0, 1, 0], [0, 0, 1, 0, 0]])


def test_what_the_discriminator_sees(state, monkeypatch):
    """The original text but for the drawn tokens, no [MASK]; nothing of a row that fills up the batch is drawn."""
    batch, params = state
    seen = {}

    def spy(self, encoded, batch, train):
        seen.update(batch)
        return {}

    monkeypatch.setattr(Rtd, "__call__", spy)
    LEARNER.apply({"params": params}, batch | {"mlm_weights": batch["mlm_weights"].at[-1].set(0)})
    masked = np.asarray(batch["tokens"] == MASK)
    assert masked.sum(axis=1).tolist() == batch["mlm_weights"].sum(axis=1).tolist()
    tokens, originals = np.asarray(seen["tokens"]), np.asarray(batch["originals"])
    np.testing.assert_array_equal(tokens[~masked], originals[~masked])
    np.testing.assert_array_equal(tokens[-1], originals[-1])
    assert (tokens != originals).any()
    np.testing.assert_array_equal(seen["replaced"], tokens != originals)


# ---- the draw ------------------------------------------------------------------------------------------------------


def test_draws_have_the_probabilities_of_the_softmax():
    """Of 20,000 rows with keys of their own, each of two predictions: within four deviations of a multinomial, and
    independent of each other."""
    rows = 20_000
    logits = jnp.array([[0.0, 1.0, -1.0, 2.0], [3.0, 0.0, 0.0, -9.0]])
    draws = jax.random.bits(KEY, (rows, 2), jnp.uint32)
    found = np.asarray(jax.jit(drawn)(jnp.broadcast_to(logits, (rows, 2, 4)), draws))
    p = np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)
    joint = np.histogram2d(found[:, 0], found[:, 1], bins=[np.arange(5)] * 2)[0]
    expected = rows * p[0][:, None] * p[1]
    assert (np.abs(joint - expected) < 4 * np.sqrt(expected) + 1).all()


def test_draws_are_of_their_row():
    """They are a function of the row's key and the place, not of the other rows, nor of how many places there are."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 40)), jnp.float32)
    draws = jax.random.bits(KEY, (6, 2), jnp.uint32)
    whole = drawn(logits, draws)
    np.testing.assert_array_equal(drawn(logits[2:4, :3], draws[2:4]), whole[2:4, :3])
    assert (drawn(logits, draws[::-1]) != whole).mean() > 0.5


def test_keys_are_of_the_example():
    """The same example has the same key and the same masks in another row of another batch, others at another step, and
    the key is not that of its masks."""
    corrupt = jax.jit(LEARNER.corrupt)
    batch = batch_of()
    there = corrupt(KEY, 5, batch)
    back = corrupt(KEY, 5, jax.tree.map(lambda x: x[::-1], batch))
    for name in ("draws", "tokens"):
        np.testing.assert_array_equal(back[name][::-1], there[name])
    assert (corrupt(KEY, 6, batch)["draws"] != there["draws"]).all()
    assert len(np.unique(there["draws"], axis=0)) == B
    np.testing.assert_array_equal(there["originals"], batch["tokens"])


# ---- whose gradient ------------------------------------------------------------------------------------------------


@jax.jit
def gradient(params, batch, mlm, rtd):
    """Of the two losses in any proportion."""

    def loss(params):
        metrics = LEARNER.apply({"params": params}, batch)
        return mlm * metrics["mlm/loss"].value + rtd * metrics["rtd/loss"].value

    return jax.grad(loss)(params)


def test_the_embeddings_are_one_parameter(state):
    """The generator has none of its own, and theirs get the gradients of both losses."""
    assert set(state[1]) == {"encoder", "generator", "objectives_mlm", "objectives_rtd"}
    assert set(state[1]["generator"]) == {"embeddings_project", "layers"}
    batch, params = state
    both, mlm, rtd = (
        gradient(params, batch, *w)["encoder"]["embeddings"] for w in ((1.0, 50.0), (1.0, 0.0), (0.0, 50.0))
    )
    for part in ("words", "positions", "segments"):
        for one in (mlm, rtd):
            assert float(jnp.abs(one[part]["table"]).max()) > 1e-4
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + c, atol=1e-5), both, mlm, rtd)


def test_nothing_is_learned_through_the_draw(state):
    """The detection has no gradient in the generator, nor its masked LM one in the discriminator: exactly 0."""
    batch, params = state
    mlm, rtd = gradient(params, batch, 1.0, 0.0), gradient(params, batch, 0.0, 1.0)
    nothing = {
        "mlm": (mlm["encoder"]["layers"], mlm["encoder"]["embeddings_project"], mlm["objectives_rtd"]),
        "rtd": (rtd["generator"], rtd["objectives_mlm"]),
    }
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, np.zeros_like(leaf)), nothing)
    for part in (mlm["generator"], mlm["objectives_mlm"], rtd["encoder"], rtd["objectives_rtd"]):
        assert float(jnp.abs(jax.tree.leaves(part)[0]).max()) > 0


# ---- the two models ------------------------------------------------------------------------------------------------


def test_the_loss(state):
    """1 and 50 times the means of the two."""
    batch, params = state
    metrics = jax.jit(LEARNER.apply)({"params": params}, batch)
    found = float(LEARNER.loss_of(metrics))
    np.testing.assert_allclose(found, float(metrics["mlm/loss"].value + 50 * metrics["rtd/loss"].value), rtol=1e-6)
    assert set(metrics) == {"mlm/loss", "mlm/accuracy"} | {
        f"rtd/{name}" for name in ("loss", "accuracy", "replaced", "called", "found")
    }


def test_the_two_alone(state):
    """Each, as a model of its own with its part of the parameters, has the loss that it has in the learner."""
    batch, params = state
    together = jax.jit(LEARNER.apply)({"params": params}, batch)
    generator, own = LEARNER.generator_alone(params)
    assert set(own) == {"encoder", "objectives_mlm"} and generator.encoder.width == 4
    np.testing.assert_allclose(
        jax.jit(generator.apply)({"params": own}, batch)["mlm/loss"].total, together["mlm/loss"].total, rtol=1e-6
    )
    outputs = jax.jit(lambda params, batch: generator.apply({"params": params}, batch, method="outputs"))
    logits = outputs(own, batch)["mlm_logits"]
    places = batch["mlm_positions"]
    tokens = drawn(jnp.take_along_axis(logits, places[..., None], axis=1), batch["draws"])
    shown = replaced(batch["originals"], places, batch["mlm_weights"], tokens)
    given = batch | {"tokens": shown, "replaced": shown != batch["originals"]}
    discriminator = LEARNER.as_multitask()
    own = {name: params[name] for name in ("encoder", "objectives_rtd")}
    found = jax.jit(discriminator.apply)({"params": own}, given)
    np.testing.assert_allclose(found["rtd/loss"].total, together["rtd/loss"].total, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objectives": {"mlm": Mlm()}}, "'mlm' and 'rtd', and not mlm"),
        ({"encoder": Bert(num_layers=1)}, "the encoder is a Bert, and only Electra's embeddings"),
        ({"generator_size": 0.01}, "heads must divide it"),
        ({"encoder": ENCODER.clone(vocab_size=99)}, "vocab_size 99, but the tokenizer has 30 pieces"),
    ],
)
def test_bad_learners(fields, message):
    """Said before anything is compiled."""
    fields = {"encoder": ENCODER, "objectives": OBJECTIVES} | fields
    with pytest.raises(ValueError, match=message):
        GeneratorDiscriminator(**fields).for_vocabulary(V, (2, 3, MASK))

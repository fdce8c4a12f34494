"""Features of a frozen encoder: the layers asked for, combined, and no gradient to the encoder."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.models.encoded import Encoded
from bert_jax.models.frozen import Frozen
from bert_jax.objectives.tag import Tag
from tests.interop.random_models import random_batch, random_model

B, L, D, N = 2, 3, 4, 3
RNG = np.random.default_rng(0)
EMBEDDINGS = jnp.asarray(RNG.normal(size=(B, L, D)), jnp.float32)
LAYERS = jnp.asarray(RNG.normal(size=(N, B, L, D)), jnp.float32)
ENCODED = Encoded(
    LAYERS[-1], LAYERS[-1, :, 0], jnp.zeros((5, D)), {"embeddings": EMBEDDINGS, "layers": LAYERS}, jnp.array([3, 2])
)


@functools.partial(jax.jit, static_argnums=0)
def initial(model, encoded=ENCODED):
    """What it gives with its initial parameters."""
    return model.init_with_output(jax.random.key(0), encoded)[0]


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (Frozen((0,), lstm_width=0), EMBEDDINGS),
        (Frozen((-1,), lstm_width=0), LAYERS[2]),
        (Frozen((-2,), lstm_width=0), LAYERS[1]),
        (Frozen((-4,), lstm_width=0), EMBEDDINGS),
        (Frozen((1, 3), lstm_width=0), jnp.concatenate([LAYERS[0], LAYERS[2]], axis=-1)),
        (Frozen((-1, 0), "sum", lstm_width=0), LAYERS[2] + EMBEDDINGS),
        (Frozen((-2, -1), "weighted", lstm_width=0), (LAYERS[1] + LAYERS[2]) / 2),
        (Frozen((), "weighted", lstm_width=0), (LAYERS[0] + LAYERS[1] + LAYERS[2]) / 3),
        (Frozen((), lstm_width=0), jnp.concatenate(list(LAYERS), axis=-1)),
    ],
)
def test_layers(model, wanted):
    """0 are the embeddings, -1 the last layer, none all layers; weights start equal; nothing is pooled."""
    found = initial(model)
    np.testing.assert_allclose(found.hidden, wanted, atol=1e-6)
    assert found.pooled is None and found.lengths is not None


def test_lstm():
    """It comes last, has its own width, and does not read padding; packed rows are refused."""
    model = Frozen((-1,), lstm_width=6)
    found = initial(model).hidden
    assert found.shape == (B, L, 6)
    changed = ENCODED._replace(intermediates={"embeddings": EMBEDDINGS, "layers": LAYERS.at[:, 1, 2].set(9.0)})
    np.testing.assert_array_equal(initial(model, changed).hidden[1, :2], found[1, :2])
    packed = ENCODED._replace(lengths=None, sequence_ids=jnp.ones((B, L), jnp.int32))
    with pytest.raises(ValueError, match="BiLSTM reads right-padded rows, and these hold several sequences, or holes"):
        initial(model, packed)
    assert initial(Frozen(lstm_width=0, layers=(-1,)), packed).hidden.shape == (B, L, D)


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_is_not_there(layer):
    """Is an error and not another layer."""
    with pytest.raises(ValueError, match=rf"layer {layer}: there are 0, the embeddings, to 3"):
        initial(Frozen((layer,)))


# ---- with an encoder and a head --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_features_are_the_hidden_states_of_the_model(layer):
    """Those that `layers` and `hidden` of its outputs show: a head that copies its features gives them back."""
    opened = random_model({"tag": Tag(36, features=Frozen((layer,), lstm_width=0))})
    opened.params["objectives_tag"]["output"] = {"kernel": np.eye(36, dtype=np.float32), "bias": np.zeros(36)}
    batch = random_batch(opened.model, (9, 5), 9)
    found = jax.jit(lambda params, batch: opened.model.apply({"params": params}, batch, method="outputs"))(
        opened.params, opened.batch(**batch)
    )
    wanted = found["embeddings"] if layer == 0 else found["layers"][layer - 1]
    np.testing.assert_allclose(found["logits"], wanted, atol=1e-5)
    if layer == 2:
        np.testing.assert_allclose(found["logits"], found["hidden"], atol=1e-5)


@functools.cache
def gradients(features, dropout=0.5):
    """Of the loss in training, and the loss for two keys of dropout."""
    encoder = Bert(20, num_layers=2, width=8, num_heads=2, mlp_width=8, max_length=5, dropout=dropout)
    learner = Multitask(encoder, {"tag": Tag(3, dropout=0.0, features=features)})
    batch = {
        "tokens": jnp.arange(10).reshape(2, 5), "segments": jnp.zeros((2, 5), jnp.int32),
        "lengths": jnp.array([5, 3]), "tags": jnp.array([[-1, 0, 1, 2, -1], [-1, 1, -1, -1, -1]]),
        "weight": jnp.ones(2),
    }  # fmt: skip

    @jax.jit
    def step(key):
        params = nn.unbox(learner.init(jax.random.key(0), batch, False)["params"])

        def loss(params):
            return learner.loss_of(learner.apply({"params": params}, batch, True, rngs={"dropout": key}))

        return jax.value_and_grad(loss)(params)

    (first, found), (second, _) = step(jax.random.key(1)), step(jax.random.key(2))
    return found, float(first), float(second)


@pytest.mark.parametrize("features", [Frozen((0, -1), lstm_width=4), Frozen((), "weighted", lstm_width=0)])
def test_the_encoder_has_no_gradient_and_no_dropout(features):
    """Exactly zero for every parameter of the encoder, not for those of the head; and the same features at every visit,
    where fine-tuning has dropout."""
    found, first, second = gradients(features)
    assert all(not leaf.any() for leaf in jax.tree.leaves(found["encoder"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(found["objectives_tag"]))
    assert first == second
    tuned, first, second = gradients(None)
    assert tuned["encoder"]["embeddings"]["words"]["table"].any() and first != second

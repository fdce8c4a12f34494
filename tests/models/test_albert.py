"""ALBERT's shared layers and narrow tables: what they compute is BERT's with equal layers, and what is counted and
trained of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.packing import plan
from bert_jax.models.albert import SIZES, Albert, albert
from bert_jax.models.bert import Bert
from bert_jax.training.flops import dot_flops
from bert_jax.training.optim import BertAdam, depths

TINY = {"vocab_size": 30, "width": 24, "num_heads": 3, "mlp_width": 40, "max_length": 12, "init_stddev": 0.2}
FORMS = {"unrolled": {}, "scan": {"scan": True}, "full": {"remat": "full"}, "dots": {"remat": "dots"}}


def encoder_of(num_layers=4, num_groups=2, **fields):
    return Albert(**TINY | {"embedding_width": 10} | fields, num_layers=num_layers, num_groups=num_groups)


def batch_of(lengths=(12, 7, 1), length=12):
    rng = np.random.default_rng(0)
    mask = np.arange(length) < np.array(lengths)[:, None]
    tokens, segments = (rng.integers(0, most, mask.shape) * mask for most in (30, 2))
    batch = {"tokens": tokens, "segments": segments, "lengths": np.array(lengths)}
    return {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()}


def params_of(encoder, seed=0):
    shapes = nn.unbox(jax.eval_shape(encoder.init, jax.random.key(0), batch_of()))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


def states_of(encoder, params, batch):
    """Outputs of all layers, with dropout."""

    @jax.jit
    def states(params):
        encoded = encoder.apply({"params": params}, batch, True, rngs={"dropout": jax.random.key(1)})
        return encoded.intermediates["layers"]

    return np.asarray(states(params))


def computed(encoder, params, batch):
    """Outputs of the pooler and of all layers, and gradients of a sum over them."""

    @jax.jit
    def both(params):
        def loss(params):
            encoded = encoder.apply({"params": params}, batch)
            return jnp.sum(jnp.square(encoded.hidden)) + jnp.sum(encoded.pooled), encoded

        (_, encoded), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return (encoded.pooled, encoded.intermediates["layers"]), gradient

    return both(params)


@pytest.fixture(scope="module")
def unrolled():
    encoder = encoder_of()
    params = params_of(encoder)
    return params, *computed(encoder, params, batch_of())


def test_shared_is_a_tower_of_equal_layers(unrolled):
    """The same as with four sets of parameters, of which two in a row are equal: all hidden states and the pooler's;
    the gradient of a set is the sum over its layers."""
    params, outputs, gradient = unrolled
    assert jax.tree.leaves(params["layers"])[0].shape[0] == 2
    copies = params | {"layers": jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), params["layers"])}
    own_outputs, own = computed(encoder_of(num_groups=4), copies, batch_of())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), outputs, own_outputs)
    assert outputs[1].shape == (4, 3, 12, 24)
    summed = own | {"layers": jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]).sum(1), own["layers"])}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-3), gradient, summed)


@pytest.mark.parametrize("form", list(FORMS)[1:])
def test_forms_agree(unrolled, form):
    """In a loop, and computed again in the backward pass."""
    params, *wanted = unrolled
    encoder = encoder_of(**FORMS[form])
    shapes = nn.unbox(jax.eval_shape(encoder.init, jax.random.key(0), batch_of()))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    found = computed(encoder, params, batch_of())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-3), found, tuple(wanted))


def test_wide_tables_are_those_of_bert(unrolled):
    """With E = D, a projection that changes nothing and a set for each layer it is BERT."""
    encoder = encoder_of(num_layers=2, embedding_width=24)
    params = params_of(encoder)
    embeddings = {name: value for name, value in params["embeddings"].items() if name != "projection"}
    params["embeddings"]["projection"] = {"kernel": jnp.eye(24), "bias": jnp.zeros(24)}
    bert = Bert(**TINY, num_layers=2, dropout=0.0, attention_dropout=0.0)
    both = (encoder, params), (bert, params | {"embeddings": embeddings})
    found, wanted = (computed(*one, batch_of())[0] for one in both)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def test_packed_is_padded():
    """Rows packed into fewer give the hidden states of padded ones, with dropout."""
    encoder, lengths = encoder_of(dropout=0.2, attention_dropout=0.1, scan=True), np.array([12, 7, 1, 4], np.int32)
    params, batch = params_of(encoder), batch_of(lengths)
    packed = batch | {"packing": jnp.asarray(plan(lengths, 12, 12))}
    assert packed["packing"].shape == (1, 2, 12)
    a, b = (states_of(encoder, params, one) for one in (batch, packed))
    real = (np.arange(12) < lengths[:, None])[..., None]
    np.testing.assert_allclose(a * real, b * real, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_each_layer_has_its_own_dropout(scan):
    """Although parameters are the same: layers that add a constant show their masks, which are different ones."""
    encoder = encoder_of(num_layers=3, num_groups=1, dropout=0.5, scan=scan)
    params = params_of(encoder)
    params["layers"] = layer = jax.tree.map(jnp.zeros_like, params["layers"])
    for norm in ("attention_norm", "mlp_norm"):
        layer[norm]["scale"] = jnp.ones_like(layer[norm]["scale"])
    layer["mlp"]["narrow"]["bias"] = jnp.full_like(layer["mlp"]["narrow"]["bias"], 50.0)
    assert len({(state > 0).tobytes() for state in states_of(encoder, params, batch_of())}) == 3


@pytest.mark.parametrize("scan", [False, True])
def test_every_layer_is_counted(scan):
    """Model flops of shared layers are those of as many layers of their own."""

    def flops(kind, layers, **fields):
        encoder = kind(**TINY, num_layers=layers, scan=scan, **fields)
        params = nn.unbox(jax.eval_shape(encoder.init, jax.random.key(0), batch_of()))
        return dot_flops(encoder.apply, params, batch_of())

    shared, own = ([flops(kind, layers) for layers in (2, 6)] for kind in (Albert, Bert))
    assert shared[1] - shared[0] == own[1] - own[0] > 0


def test_depths_count_sets():
    """For `layer_decay` and `frozen_layers` a set is a layer: embeddings and their projection 0, sets 1 and 2, all else
    3; with a set frozen it stays as it is."""
    encoder = encoder_of()
    params = {"encoder": params_of(encoder)}
    depth, top = depths(params)
    assert top == 3 and {int(value) for value in jax.tree.leaves(depth["encoder"]["embeddings"])} == {0}
    assert "projection" in depth["encoder"]["embeddings"]
    assert all(value.ravel().tolist() == [1, 2] for value in jax.tree.leaves(depth["encoder"]["layers"]))
    assert {int(value) for value in jax.tree.leaves(depth["encoder"]["pooler"])} == {3}
    optimizer = BertAdam(frozen_layers=1, warmup=0).build(10)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(lambda: optimizer.update(ones, optimizer.init(params), params))()
    kernel = updates["encoder"]["layers"]["mlp"]["widen"]["kernel"]
    assert not np.any(kernel[0]) and np.all(kernel[1])


def test_groups_that_do_not_divide_the_layers():
    """Said by name, wherever it is first asked."""
    encoder = encoder_of(num_layers=5)
    with pytest.raises(ValueError, match="num_layers 5 is not a multiple of num_groups 2"):
        jax.eval_shape(encoder.init, jax.random.key(0), batch_of())


@pytest.mark.parametrize(("size", "millions"), [("base", 12), ("large", 18), ("xlarge", 60), ("xxlarge", 223)])
def test_sizes_of_the_paper(size, millions):
    """The number of parameters in table 1, with 30,000 pieces and the masked LM's transform and bias; of xxlarge the
    table says 235 M, and those that were released are 223 M."""
    encoder = albert(size, vocab_size=30_000)
    batch = {"tokens": jax.ShapeDtypeStruct((1, 8), jnp.int32)}
    shapes = nn.unbox(jax.eval_shape(encoder.init, jax.random.key(0), batch))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes)) + encoder.width * 128 + 3 * 128 + 30_000
    assert abs(count / 1e6 - millions) < 0.03 * millions
    assert (encoder.num_layers, encoder.width) == SIZES[size] and encoder.dropout == encoder.attention_dropout == 0
    assert encoder.num_heads == {"base": 12, "large": 16, "xlarge": 16, "xxlarge": 64}[size]

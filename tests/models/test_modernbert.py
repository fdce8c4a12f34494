"""What is ModernBERT's own: windows, the layer without a norm, the heads' hidden layer, the two spellings of its
configuration."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.packing import plan
from bert_jax.interop import names
from bert_jax.interop.huggingface import read_config
from bert_jax.models.encoded import Encoded
from bert_jax.models.modernbert import ModernBert, modernbert
from bert_jax.nn.attention import attend, fused, visible_keys
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.pretrained import load
from tests.interop.random_models import family_model, random_model

SIZES = {"vocab_size": 40, "width": 24, "num_heads": 2, "mlp_width": 36, "max_length": 64, "dtype": "float32"}

FLOAT32 = jnp.dtype("float32")


def model(**fields):
    """An encoder, and random weights that matter."""
    encoder = ModernBert(**SIZES | {"num_layers": 4, "window": 6, "init_stddev": 0.4, "scan": True} | fields)
    params = nn.unbox(jax.jit(encoder.init)(jax.random.key(0), {"tokens": jnp.ones((1, 2), int)})["params"])
    return encoder, params


def tokens(rows, length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(1, 40, (rows, length)), jnp.int32)


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_by_hand():
    """As many keys on each side, of the same sequence; a window larger than the row hides nothing."""
    ids = jnp.array([[1, 1, 1, 2, 2, 0]])
    wanted = ["110000", "111000", "011000", "000110", "000110", "000001"]
    found = visible_keys(6, sequence_ids=ids, window=1)[0, 0].astype(int)
    assert ["".join(map(str, row)) for row in found.tolist()] == wanted
    both = visible_keys(4, lengths=jnp.array([3]), window=jnp.int32(1))[0, 0].astype(int).tolist()
    assert both == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
    assert visible_keys(5, window=5).all()


@pytest.mark.parametrize("seen", [{}, {"lengths": [9, 5]}, {"sequence_ids": [[1] * 4 + [2] * 5, [1] * 3 + [0] * 6]}])
def test_fused_windows(seen):
    """What `jax.nn.dot_product_attention` computes is what the plain one does, at every token that is no padding."""
    seen = {name: jnp.array(value) for name, value in seen.items()}
    q, k, v = (jnp.asarray(np.random.default_rng(i).normal(size=(2, 2, 9, 4)), jnp.float32) for i in range(3))
    plain, _ = attend(q, k, v, FLOAT32, window=2, **seen)
    other = fused(q, k, v, FLOAT32, window=2, kind="xla", **seen)
    real = np.ones((2, 9), bool)
    real[1] = np.arange(9) < {"lengths": 5, "sequence_ids": 3}.get(next(iter(seen), ""), 9)
    where = np.broadcast_to(real[:, None, :, None], plain.shape)
    assert np.isfinite(other).all()
    np.testing.assert_allclose(np.asarray(plain)[where], np.asarray(other)[where], atol=1e-6)
    everything, _ = attend(q, k, v, FLOAT32, **seen)
    assert not np.allclose(np.asarray(plain)[where], np.asarray(everything)[where], atol=1e-3)


@pytest.mark.parametrize("scan", [False, True])
def test_which_layers_see_everything(scan):
    """Of four layers the first and the fourth are global. Where both have no say, as with no layer but local ones, a
    token changes its neighbours at most, 3 for each layer; the number of a layer decides, in a loop and unrolled."""
    batch = {"tokens": tokens(1, 40)}
    other = {"tokens": batch["tokens"].at[0, 20].set(39)}
    encoder, params = model(scan=scan)

    def changed(encoder):
        apply = jax.jit(lambda batch: encoder.apply({"params": params}, batch).intermediates["layers"])
        of = apply(batch), apply(other)
        return [np.flatnonzero(np.abs(x).max(axis=(0, -1)) > 1e-7).tolist() for x in of[0] - of[1]]

    assert [len(there) for there in changed(encoder)] == [40] * 4
    still = jax.tree.map(jnp.zeros_like, params["layers"]["attention"]["out"])
    kernel = params["layers"]["attention"]["out"]["kernel"]
    params["layers"]["attention"]["out"] = {"kernel": kernel.at[0].set(still["kernel"][0])}
    found = changed(encoder)  # of the first layer nothing is left that mixes tokens
    assert found[:3] == [[20], list(range(17, 24)), list(range(14, 27))] and len(found[3]) == 40
    assert len(changed(encoder.clone(global_every=2))[2]) == 40


def test_packed_as_padded():
    """Rows of sequences longer than a window, packed, with dropout: hidden states and gradients are those of the padded
    rows."""
    encoder, params = model(dropout=0.1)
    lengths = np.array([30, 11, 9, 25], np.int32)
    batch = {"tokens": tokens(4, 32) * (jnp.arange(32) < lengths[:, None]), "lengths": jnp.asarray(lengths)}
    packing = jnp.asarray(plan(lengths, 32, 48))
    assert packing.shape[1] == 2  # four rows in two

    @jax.jit
    def hidden(params, batch):
        found = encoder.apply({"params": params}, batch, True, rngs={"dropout": jax.random.key(1)}).hidden
        return found * (jnp.arange(32) < lengths[:, None])[..., None]

    def loss(params, batch):
        return jnp.sum(jnp.sin(hidden(params, batch)))

    packed = batch | {"packing": packing}
    np.testing.assert_allclose(hidden(params, packed), hidden(params, batch), atol=2e-5)
    found = (jax.jit(jax.grad(loss))(params, own) for own in (packed, batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()), *found)


def test_fused_attention_in_the_model():
    """The whole encoder with `xla` in place of `plain`."""
    encoder, params = model()
    batch = {"tokens": tokens(2, 20), "lengths": jnp.array([20, 9], jnp.int32)}
    both = [jax.jit(encoder.clone(attention=kind).apply)({"params": params}, batch).hidden for kind in ("plain", "xla")]
    real = np.arange(20) < np.array([[20], [9]])
    np.testing.assert_allclose(*(np.asarray(hidden)[real] for hidden in both), atol=1e-5)


# ---- layers ----------------------------------------------------------------------------------------------------------


def test_the_first_layer_has_no_norm():
    """What row 0 of the norms before attention holds, changes nothing and gets no gradient; row 1 does. No parameter is
    a bias."""
    encoder, params = model()
    batch = {"tokens": tokens(2, 9)}

    @jax.jit
    def total(params):
        return jnp.sum(jnp.sin(encoder.apply({"params": params}, batch).hidden))

    gradient = jax.grad(total)(params)["layers"]["attention_norm"]["scale"]
    assert gradient.shape == (4, 24)
    np.testing.assert_array_equal(np.abs(gradient).max(axis=1) > 0, [False, True, True, True])
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert not any("bias" in path for path in paths)


def test_the_sizes_of_the_paper():
    """149 and 395 million parameters with the masked LM's head, 22 and 28 layers (section 2.1.3); row 0 of the norms,
    which is of no layer, is not one of theirs."""
    for size, millions, layers in (("base", 149, 22), ("large", 395, 28)):
        encoder = modernbert(size, vocab_size=50_368, scan=True)
        heads = {"mlm": Mlm(activation="gelu", norm_epsilon=1e-5, use_bias=False)}
        shapes = jax.eval_shape(lambda encoder=encoder: encoder.init(jax.random.key(0), {"tokens": tokens(1, 2)}))
        count = sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes))) - encoder.width
        count += encoder.width**2 + encoder.width + encoder.vocab_size  # transform, its norm, the decoder's bias
        assert count // 10**6 == millions and encoder.num_layers == layers
        assert len(list(names.parameters(encoder, heads))) == 12


KERNELS = (("attention", "qkv"), ("attention", "out"), ("mlp", "widen"), ("mlp", "narrow"))


def test_the_kernels_that_write_to_the_residual_are_smaller():
    """Their deviation is that of the others over sqrt(2 N)."""
    encoder = ModernBert(**SIZES | {"num_layers": 8, "width": 96})
    params = nn.unbox(jax.jit(encoder.init)(jax.random.key(0), {"tokens": tokens(1, 2)})["params"])["layers"]
    deviation = {kernel: float(np.std(params[block][kernel]["kernel"])) for block, kernel in KERNELS}
    for small, large in (("out", "qkv"), ("narrow", "widen")):
        assert deviation[large] / deviation[small] == pytest.approx(4, rel=0.03)


# ---- heads and configuration -----------------------------------------------------------------------------------------


def test_the_mean_over_tokens():
    """Padding has no part in it, however it is told apart; a row of nothing has a mean of 0."""
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 2)), jnp.float32)
    lengths = jnp.array([4, 2, 0], jnp.int32)
    ids = jnp.array([[1, 1, 2, 2], [0, 1, 1, 0], [0, 0, 0, 0]])
    whole, none = hidden[0].mean(axis=0), jnp.zeros(2)

    def mean(**seen):
        return Encoded(hidden, None, hidden[0], {}, **seen).hidden_of("mean")

    np.testing.assert_allclose(mean(lengths=lengths), jnp.stack([whole, hidden[1, :2].mean(axis=0), none]), atol=1e-6)
    np.testing.assert_allclose(mean(sequence_ids=ids), jnp.stack([whole, hidden[1, 1:3].mean(axis=0), none]), atol=1e-6)
    np.testing.assert_allclose(mean(), hidden.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(("hidden", "pooling"), [("gelu_norm", "cls"), ("mean_gelu_norm", "mean")])
def test_pooling(tmp_path, hidden, pooling):
    """What a head over texts reads is in their configuration, and comes back."""
    p = family_model("modernbert", "ModernBertForSequenceClassification", activation="gelu")
    p.model.objectives["classify"] = Classify(3, hidden=hidden)
    p.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["classifier_pooling"] == pooling
    assert load(tmp_path / "saved").model.objectives["classify"].hidden == hidden


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({}, (3, 160_000.0, 10_000.0)),
        ({"global_attn_every_n_layers": 2, "global_rope_theta": 9.0, "local_rope_theta": 8.0}, (2, 9.0, 8.0)),
        ({"layer_types": ["full_attention", "sliding_attention"] * 2}, (2, 160_000.0, 10_000.0)),
        ({"layer_types": ["full_attention"] * 4}, (1, 160_000.0, 10_000.0)),
        ({"layer_types": ["full_attention"] + ["sliding_attention"] * 3}, (4, 160_000.0, 10_000.0)),
        (
            {"global_attn_every_n_layers": 5, "layer_types": ["full_attention"] + ["sliding_attention"] * 3},
            (5, 160_000.0, 10_000.0),
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5.0, "rope_type": "default"}}}, (3, 5.0, 10_000.0)),
    ],
)
def test_both_spellings(tmp_path, written, read):
    """Of which layers are global, and of the angles' bases: that of the released folders, and that of today's."""
    random_model({}, kind=ModernBert, num_layers=4).save(tmp_path / "saved")
    file = tmp_path / "saved/config.json"
    config = json.loads(file.read_text())
    for field in ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"):
        del config[field]
    file.write_text(json.dumps(config | written))
    encoder = load(tmp_path / "saved").model.encoder
    assert (encoder.global_every, encoder.global_theta, encoder.local_theta) == read


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"layer_types": ["sliding_attention", "full_attention"]},
            "layer_types .* are not full_attention in the first",
        ),
        ({"layer_types": 3}, "layer_types 3 are not"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_parameters of full_attention .*'yarn'.* only",
        ),
        ({"rope_parameters": 7}, "rope_parameters of full_attention 7 are not supported"),
        ({"classifier_pooling": "max"}, "classifier_pooling is 'max', expected 'cls' or 'mean'"),
        ({"norm_bias": True}, "norm_bias True is not supported, only False"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-06 is not supported"),
        ({"mlp_dropout": 0.1}, "mlp_dropout 0.1 is not supported"),
    ],
)
def test_what_cannot_be_opened(tmp_path, fields, message):
    """Said with its file."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "modernbert"} | fields))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        read_config(file)


def test_heads_that_have_no_counterpart(tmp_path):
    """Their masked LM has no biases; the head over texts, a hidden layer of its own kind. BERT's is another one."""
    for kind, head in (
        (ModernBert, Mlm(activation="gelu", norm_epsilon=1e-5)),
        (ModernBert, Classify(3, hidden="tanh")),
    ):
        p = random_model({}, kind=kind)
        p.model.objectives["own"] = head
        with pytest.raises(ValueError, match=r"'own' .* has no counterpart"):
            p.save(tmp_path / "saved")
    p = random_model({"mlm": Mlm(use_bias=False)})
    with pytest.raises(ValueError, match=r"'mlm' .* has no counterpart"):
        p.save(tmp_path / "saved")

"""BERT's encoder against a second implementation in numpy, published sizes, and what must not change its output."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.bert import Bert, bert
from bert_jax.models.tower import Layer

V, N, D, H, F, LENGTH = 50, 2, 16, 4, 40, 12
TINY = {"vocab_size": V, "num_layers": N, "width": D, "num_heads": H, "mlp_width": F, "max_length": LENGTH}


def batch_of(lengths, width=None, seed=0):
    """Random rows, right-padded with 0."""
    rng, lengths = np.random.default_rng(seed), np.array(lengths, np.int32)
    real = np.arange(width or max(lengths)) < lengths[:, None]
    tokens, segments = (np.where(real, rng.integers(0, n, real.shape), 0).astype(np.int32) for n in (V, 2))
    return {name: jnp.asarray(x) for name, x in {"tokens": tokens, "segments": segments, "lengths": lengths}.items()}


@pytest.fixture(scope="module")
def params():
    """Far from the initial values, so that every parameter matters: biases, scales, and attention that is not flat."""
    shapes = nn.unbox(jax.eval_shape(Bert(**TINY).init, jax.random.key(0), batch_of([3]))["params"])
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(mean, 0.3, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


MODEL, LOOPED, CAUSAL = Bert(**TINY), Bert(**TINY, scan=True), Bert(**TINY, causal=True)
KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=2)
def encode(params, batch, model=MODEL):
    return model.apply({"params": params}, batch)


# ---- the second implementation: float64, one row at a time, no padding ---------------------------------------------


def reference(params, tokens, segments, causal=False):
    """Embeddings, all layers' outputs [N, L, D] and the pooled vector of one row, after Devlin et al. and
    modeling.py; of a left-to-right model each token is computed from the row up to it, and the last is pooled."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def layer_norm(x, norm):
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return normal * norm["scale"] + norm["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    tables = p["embeddings"]
    x = tables["words"]["table"][tokens] + tables["segments"]["table"][segments]
    x = layer_norm(x + tables["positions"]["table"][: len(tokens)], tables["norm"])
    embeddings, outputs = x, []
    for i in range(N):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
        qkv, out = layer["attention"]["qkv"], layer["attention"]["out"]
        mixed = np.zeros_like(x)
        for h in range(H):
            query, key, value = (x @ qkv["kernel"][:, j, h] + qkv["bias"][j, h] for j in range(3))
            for at in range(len(x)):
                seen = at + 1 if causal else len(x)
                scores = np.exp(key[:seen] @ query[at] / math.sqrt(D / H))
                mixed[at] += scores / scores.sum() @ value[:seen] @ out["kernel"][h]
        x = layer_norm(x + mixed + out["bias"], layer["attention_norm"])
        widen, narrow = layer["mlp"]["widen"], layer["mlp"]["narrow"]
        wide = gelu(x @ widen["kernel"] + widen["bias"])
        x = layer_norm(x + wide @ narrow["kernel"].T + narrow["bias"], layer["mlp_norm"])
        outputs.append(x)
    pooled = x[-1 if causal else 0]
    return embeddings, np.stack(outputs), np.tanh(pooled @ p["pooler"]["kernel"] + p["pooler"]["bias"])


@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_second_implementation(params, causal):
    """Post-norm layers, tanh GELU, tanh pooler on the first token, of a causal encoder on the last, in rows of several
    lengths; float32 within 1e-5."""
    batch = batch_of([12, 7, 1], LENGTH)
    encoded = encode(params, batch, CAUSAL if causal else MODEL)
    assert encoded.intermediates["layers"].shape == (N, 3, LENGTH, D)
    for row, length in enumerate(batch["lengths"]):
        tokens, segments = batch["tokens"][row, :length], batch["segments"][row, :length]
        embeddings, layers, pooled = reference(params, tokens, segments, causal)
        np.testing.assert_allclose(encoded.intermediates["embeddings"][row, :length], embeddings, atol=1e-5)
        np.testing.assert_allclose(encoded.intermediates["layers"][:, row, :length], layers, atol=1e-5)
        np.testing.assert_allclose(encoded.hidden[row, :length], layers[-1], atol=1e-5)
        np.testing.assert_allclose(encoded.pooled[row], pooled, atol=1e-5)
    np.testing.assert_array_equal(encoded.table, params["embeddings"]["words"]["table"])


def test_a_causal_token_depends_on_none_after_it(params):
    """The gradient of what any layer makes of a token, in the embeddings of the tokens after it, is exactly 0; in its
    own and those before it, it is not. Without `causal` every token depends on every other."""
    batch = batch_of([LENGTH])

    @functools.partial(jax.jit, static_argnums=1)
    def influence(params, model):
        """Of what stands at [token k] on the output at [token l]: largest absolute derivative [l, k]."""

        def outputs(rows):  # each token has a row of its own in the position table
            given = params | {"embeddings": params["embeddings"] | {"positions": {"table": rows}}}
            return model.apply({"params": given}, batch).hidden[0]

        return jnp.abs(jax.jacrev(outputs)(params["embeddings"]["positions"]["table"])).max((1, 3))

    causal, both = np.asarray(influence(params, CAUSAL)), np.asarray(influence(params, MODEL))
    np.testing.assert_array_equal(np.triu(causal, 1), 0)
    assert np.all(causal[np.tril_indices(LENGTH)] > 0) and np.all(both > 0)


@pytest.mark.parametrize("given", ["lengths", "sequence_ids", "neither"])
def test_a_causal_encoder_pools_the_last_token(params, given):
    """That is no padding, however the batch tells; in a packed row it is the last sequence's."""
    batch = batch_of([12, 7, 1], LENGTH)
    real = jnp.arange(LENGTH) < batch.pop("lengths")[:, None]
    last = [11, 6, 0]
    if given == "lengths":
        batch["lengths"] = real.sum(1)
    elif given == "sequence_ids":
        batch["sequence_ids"] = real * jnp.where(jnp.arange(LENGTH) < 4, 1, 2)
    else:
        last = [11, 11, 11]
    encoded = encode(params, batch, CAUSAL)
    pooler = params["pooler"]
    want = np.tanh(encoded.hidden[np.arange(3), np.array(last)] @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(encoded.pooled, want, atol=1e-5)


@pytest.mark.parametrize("model", [MODEL, CAUSAL], ids=["both ways", "causal"])
def test_padding_changes_nothing(params, model):
    """Whatever tokens and segments stand in it. (That it is there changes nothing either: the second implementation
    above has none.)"""
    batch = batch_of([12, 7, 1])
    padding = jnp.arange(LENGTH) >= batch["lengths"][:, None]
    other = {"tokens": jnp.where(padding, 17, batch["tokens"]), "segments": jnp.where(padding, 1, batch["segments"])}
    got, want = encode(params, batch | other, model), encode(params, batch, model)
    for row, length in enumerate(batch["lengths"]):
        np.testing.assert_array_equal(got.hidden[row, :length], want.hidden[row, :length])
    np.testing.assert_array_equal(got.pooled, want.pooled)


@pytest.mark.parametrize("model", [MODEL, CAUSAL], ids=["both ways", "causal"])
def test_packing_changes_nothing(params, model):
    """Two sequences in a row, told apart by `sequence_ids`, each with positions from 0."""
    batch = batch_of([5, 4, 1], LENGTH)
    join = lambda name: jnp.concatenate([batch[name][0, :5], batch[name][1, :4], jnp.zeros(3, jnp.int32)])[None]  # noqa: E731
    packed = {
        "tokens": join("tokens"),
        "segments": join("segments"),
        "sequence_ids": jnp.array([[1] * 5 + [2] * 4 + [0] * 3]),
        "positions": jnp.array([[*range(5), *range(4), 0, 0, 0]]),
    }
    got, want = encode(params, packed, model).hidden[0], encode(params, batch, model).hidden
    np.testing.assert_allclose(got[:5], want[0, :5], atol=1e-5)
    np.testing.assert_allclose(got[5:9], want[1, :4], atol=1e-5)


def test_segments_default_to_0(params):
    """Said or not said."""
    batch = batch_of([12, 7, 1])
    said = batch | {"segments": jnp.zeros((3, LENGTH), jnp.int32)}
    del batch["segments"]
    np.testing.assert_allclose(encode(params, batch).hidden, encode(params, said).hidden, atol=1e-6)


def test_scan_and_remat_reach_the_layers(params):
    """The fields do what they say, on the same parameters; that outputs and gradients of all forms agree is tested on
    a small layer in `test_stack.py`."""
    batch = batch_of([12, 7, 1])
    np.testing.assert_allclose(encode(params, batch, LOOPED).hidden, encode(params, batch).hidden, atol=1e-5)

    def gradient_of(model):
        loss = lambda p: model.apply({"params": p}, batch, True, rngs={"dropout": KEY}).hidden.sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(params))

    looped, unrolled = gradient_of(LOOPED), gradient_of(MODEL)
    assert "unroll=1" in looped and f"unroll={N}" not in looped and f"unroll={N}" in unrolled
    assert "remat2" not in unrolled + looped and "checkpoint" not in unrolled + looped
    again = gradient_of(Bert(**TINY, remat="full"))
    assert "remat2" in again or "checkpoint" in again


def test_places_of_dropout(params):
    """On the normalised embeddings (each number is kept with its scale or 0); on what a block adds to its input, not
    on the sum; none on the pooled output (modeling.py:368-372, 224-232, 858-880). And another key drops other
    numbers."""
    batch = batch_of([12, 7, 1])
    train = jax.jit(lambda p, key: LOOPED.apply({"params": p}, batch, True, rngs={"dropout": key}))
    encoded = train(params, KEY)
    assert not np.allclose(encoded.hidden, train(params, jax.random.key(1)).hidden)
    still = np.asarray(encode(params, batch).intermediates["embeddings"])
    embeddings = np.asarray(encoded.intermediates["embeddings"])
    np.testing.assert_allclose(embeddings, np.where(embeddings == 0, 0, still / 0.9), rtol=1e-4, atol=1e-5)
    assert 0.02 < (embeddings == 0).mean() < 0.2
    pooler = params["pooler"]
    pooled = np.tanh(encoded.hidden[:, 0] @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(encoded.pooled, pooled, atol=1e-5)
    # Blocks that are dropped whole: what is left of a layer is two layer norms, which keep what is normalised already.
    first = jax.tree.map(lambda leaf: leaf[0], params["layers"])
    plain = {"scale": jnp.ones(D), "bias": jnp.zeros(D)}
    layer = Layer(H, F, 1 - 1e-9, 0.0, "gelu_tanh", 1e-12, 0.02, "auto")
    x = np.random.default_rng(0).normal(size=(2, 4, D))
    x = jnp.asarray((x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True), jnp.float32)
    own = first | {"attention_norm": plain, "mlp_norm": plain}
    index = jnp.arange(8, dtype=jnp.uint32).reshape(2, 4)
    result = jax.jit(lambda p, x: layer.apply({"params": p}, x, None, None, True, index, rngs={"dropout": KEY}))(own, x)
    np.testing.assert_allclose(result, x, atol=1e-5)


def test_bfloat16_is_float32_to_its_precision(params):
    """Two layers round some ten operands by up to 2**-8 each; layer norm, softmax and residuals do not. The root mean
    square of the difference stays below 2**-5 of that of the output, and there is one: the operands are rounded."""
    batch = batch_of([12, 7, 1])
    got, want = encode(params, batch, Bert(**TINY, dtype="bfloat16")), encode(params, batch)
    assert got.hidden.dtype == got.pooled.dtype == jnp.bfloat16
    assert want.hidden.dtype == want.pooled.dtype == jnp.float32
    assert got.intermediates["layers"].dtype == got.table.dtype == jnp.float32
    difference = np.asarray(got.intermediates["layers"] - want.intermediates["layers"])
    relative = math.sqrt(np.mean(difference**2) / np.mean(np.square(want.intermediates["layers"])))
    assert 2**-10 < relative < 2**-5


# ---- initial values and sizes --------------------------------------------------------------------------------------


def test_initial_values():
    """modeling.py:375-377: normal with deviation 0.02 cut at two deviations and not rescaled, which leaves 0.01759
    (four standard errors are allowed), in every table and kernel; layers differ; biases are 0, scales 1."""
    model = Bert(vocab_size=500, num_layers=2, width=64, num_heads=2, mlp_width=128, max_length=64, scan=True)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), batch_of([3]))["params"])
    assert params["embeddings"]["words"]["table"].shape == (500, 64)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        values = np.asarray(leaf)
        if path[-1].key in ("kernel", "table"):
            bound = 0.01759 / math.sqrt(values.size)
            assert abs(values.mean()) < 4 * bound, path
            assert abs(values.std() - 0.01759) < 4 * bound / math.sqrt(2), path
            assert abs(values).max() <= 0.04, path
        else:
            assert np.all(values == (path[-1].key == "scale")), path
    for leaf in (params["layers"]["attention"]["qkv"]["kernel"], params["layers"]["mlp"]["widen"]["kernel"]):
        assert not np.any(leaf[0] == leaf[1])


def parameters(model):
    """How many, from shapes alone."""
    batch = {"tokens": jnp.zeros((1, 2), jnp.int32)}
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), batch)))


@pytest.mark.parametrize(
    ("size", "encoder", "published"),
    [
        ("tiny", 4_385_920, 4.4),
        ("mini", 11_170_560, 11.3),
        ("small", 28_763_648, 29.1),
        ("medium", 41_373_184, 41.7),
        ("base", 109_482_240, 110.1),
        ("large", 335_141_888, None),
    ],
)
def test_sizes_have_the_published_numbers_of_parameters(size, encoder, published):
    """With the 30,522 pieces of the uncased vocabulary: encoder and pooler to the last parameter, as the released
    checkpoints hold them; with the MLM head the millions of Turc et al. 2019, table 1."""
    model = bert(size, vocab_size=30522)
    assert parameters(model) == encoder
    if published:
        head = model.width * (model.width + 1) + 2 * model.width + 30522
        assert round((encoder + head) / 1e6, 1) == published
    assert model.width // model.num_heads == 64
    assert model.mlp_width == 4 * model.width


def test_without_a_pooler(params):
    """No parameters and no output for it."""
    model = Bert(**TINY, pooler=False)
    assert jax.eval_shape(model.apply, {"params": params}, batch_of([3])).pooled is None
    assert parameters(Bert(**TINY)) - parameters(model) == D * (D + 1)


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 4}, "rows of 5 tokens, but the encoder takes 4"),
        ({"num_heads": 3}, r"width 16 is not a multiple of num_heads 3"),
        ({"vocab_size": 0}, r"vocab_size is 0"),
    ],
)
def test_bad_shapes_raise_before_compilation(change, message):
    """While shapes are inferred, with a message that names the field. (The longest row allowed is in tests above.)"""
    model = Bert(**TINY | change)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), batch_of([5]))


def test_an_unknown_size_is_an_error():
    """Not some default."""
    with pytest.raises(KeyError):
        bert("huge")


def test_the_choice_of_attention_changes_nothing(params):
    """`attention` reaches the layers: JAX's own computes the same rows of several lengths."""
    batch = batch_of([7, 12, 3])
    want = encode(params, batch)
    got = encode(params, batch, Bert(**TINY, attention="xla"))
    real = np.arange(12) < np.asarray(batch["lengths"])[:, None]
    np.testing.assert_allclose(got.hidden[real], want.hidden[real], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="attention_dropout"):
        Bert(**TINY, attention="xla").apply({"params": params}, batch, True, rngs={"dropout": KEY})


def test_the_choice_of_dropout_bits_reaches_every_layer(params):
    """With rates of 0 in all but one place, the two generators draw different masks there, too."""
    batch = batch_of([7, 12, 3])
    for rates in ({"dropout": 0.5, "attention_dropout": 0.0}, {"dropout": 0.0, "attention_dropout": 0.5}):
        encoders = [Bert(**TINY, **rates, dropout_bits=bits) for bits in ("hash", "jax")]
        hidden = [x.apply({"params": params}, batch, True, rngs={"dropout": KEY}).hidden for x in encoders]
        assert np.abs(hidden[0] - hidden[1]).max() > 0.1

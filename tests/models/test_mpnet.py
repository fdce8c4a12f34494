"""What is MPNet's own: the bias of relative positions, and the two streams of its pre-training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.packing import plan
from bert_jax.models.mpnet import Mpnet, Permuted, _streams, buckets, mpnet
from bert_jax.models.roberta import Roberta
from bert_jax.nn.attention import attend, fused
from bert_jax.training.optim import depths

SIZES = {"vocab_size": 40, "width": 24, "num_heads": 2, "mlp_width": 36, "max_length": 64, "dtype": "float32"}
SIZES |= {"num_layers": 2, "init_stddev": 0.4, "scan": True}
FLOAT32 = jnp.dtype("float32")


@pytest.fixture(scope="module")
def params():
    encoder = Mpnet(**SIZES)
    return nn.unbox(jax.jit(encoder.init)(jax.random.key(0), {"tokens": jnp.ones((1, 2), int)})["params"])


def encode(params, batch, permuted=None, encoder=None, **more):
    encoder = encoder or Mpnet(**SIZES)
    given = {} if permuted is None else {"permuted": permuted}
    apply = jax.jit(lambda p, b, given: encoder.apply({"params": p}, b, bool(more), **given, **more))
    return apply(params, batch, given)


def tokens(rows, length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(5, 40, (rows, length)), jnp.int32)


# ---- the bias --------------------------------------------------------------------------------------------------------


def test_a_bias_by_hand():
    """Of a query that is zero the shares of the keys are the softmax of the bias, over the keys that it sees; one of
    the fused kinds adds it, too, and the other says that it does not."""
    q, v = jnp.zeros((2, 1, 3, 4)), jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3, 4)), jnp.float32)
    bias = jnp.log(jnp.array([[1.0, 2, 4], [3, 3, 2], [1, 1, 1]]))[None, None]
    lengths = jnp.array([3, 2])
    mixed, shares = attend(q, v, v, FLOAT32, lengths, bias=bias)
    np.testing.assert_allclose(shares[0, 0], [[1 / 7, 2 / 7, 4 / 7], [3 / 8, 3 / 8, 2 / 8], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(shares[1, 0], [[1 / 3, 2 / 3, 0], [1 / 2, 1 / 2, 0], [1 / 2, 1 / 2, 0]], rtol=1e-6)
    np.testing.assert_allclose(fused(q, v, v, FLOAT32, lengths, bias=bias, kind="xla"), mixed, atol=1e-6)
    with pytest.raises(ValueError, match="attention 'cudnn' has no bias on the scores that is learned"):
        fused(q, v, v, FLOAT32, lengths, bias=bias)


def test_buckets_by_hand():
    """A bucket for each distance up to 7, then by the logarithm, 2.6 and 2.2 eighths of the way to 128 for 20 and 17,
    the last for all that is farther; 16 more where the key is behind the query."""
    found = buckets(jnp.array([[0, 3, 20, 200]]))[0].tolist()
    assert found == [[0, 19, 26, 31], [3, 0, 26, 31], [10, 10, 0, 31], [15, 15, 15, 0]]


def test_it_is_roberta_with_a_bias(params):
    """Without its table, and with RoBERTa's row of segments at zero, the two are one; with it they are not. It has a
    share in every layer."""
    batch = {"tokens": tokens(2, 20), "lengths": jnp.array([20, 9])}
    flat = params | {"embeddings_relative": {"table": jnp.zeros((32, 2))}}
    embeddings = params["embeddings"] | {"segments": {"table": jnp.zeros((1, 24))}}
    theirs = {"embeddings": embeddings, "layers": params["layers"]}
    roberta = encode(theirs, batch, encoder=Roberta(**SIZES))
    np.testing.assert_allclose(encode(flat, batch).hidden, roberta.hidden, atol=1e-6)
    assert not np.allclose(encode(params, batch).hidden, roberta.hidden, atol=1e-2)

    def of_layers(table):
        layers = encode(params | {"embeddings_relative": {"table": table}}, batch).intermediates["layers"]
        return jnp.sum(layers[..., 0], axis=(1, 2))

    found = jax.jacrev(of_layers)(params["embeddings_relative"]["table"])
    assert (np.abs(found).max(axis=(1, 2)) > 1e-3).all()
    assert not np.abs(found[:, [8 + 4, 16, 24 + 4]]).any()  # distances from 32 on, and the bucket of none


def test_packed_as_padded(params):
    """Positions of packed sequences begin anew, and so do the distances: hidden states and gradients are those of the
    padded rows; `positions` that are given are what distances are between."""
    lengths = np.array([30, 11, 9, 25], np.int32)
    batch = {"tokens": tokens(4, 32) * (jnp.arange(32) < lengths[:, None]), "lengths": jnp.asarray(lengths)}
    packing = jnp.asarray(plan(lengths, 32, 48))
    assert packing.shape[1] == 2  # four rows in two
    real = (jnp.arange(32) < lengths[:, None])[..., None]

    def loss(params, batch):
        hidden = Mpnet(**SIZES).apply({"params": params}, batch).hidden * real
        return jnp.sum(jnp.sin(hidden)), hidden

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    found = [step(params, own) for own in (batch, batch | {"packing": packing})]
    np.testing.assert_allclose(found[0][0][1], found[1][0][1], atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()), found[0][1], found[1][1])
    ids, positions = jnp.array([[1] * 5 + [2] * 4]), jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    row = tokens(1, 9)
    joined = encode(params, {"tokens": row, "sequence_ids": ids, "positions": positions}).hidden
    np.testing.assert_allclose(joined[:, 5:], encode(params, {"tokens": row[:, 5:]}).hidden, atol=1e-5)


def test_fused_attention_in_the_model(params):
    """The whole encoder with `xla` in place of `plain`, in one stream and in two."""
    batch = {"tokens": tokens(2, 20), "lengths": jnp.array([20, 9], jnp.int32)}
    real = np.arange(20) < np.array([[20], [9]])
    encoders = Mpnet(**SIZES), Mpnet(**SIZES, attention="xla", attention_dropout=0.0)
    for given in (None, PERMUTED):
        both = [encode(params, batch, given, encoder).hidden for encoder in encoders]
        np.testing.assert_allclose(*(np.asarray(hidden)[real] for hidden in both), atol=1e-5)
    with pytest.raises(ValueError, match="'cudnn' has no bias"):
        encode(params, batch, None, Mpnet(**SIZES, attention="cudnn"))


def test_it_is_frozen_with_the_embeddings(params):
    """The table counts as embeddings where layers have learning rates of their own."""
    of_leaves, top = depths(params)
    assert top == 3 and int(of_leaves["embeddings_relative"]["table"]) == 0


def test_sizes():
    """Song et al. 2020, section 3: BERT-base."""
    base = mpnet("base")
    assert (base.num_layers, base.width, base.num_heads, base.mlp_width) == (12, 768, 12, 3072)
    assert (base.activation, base.norm_epsilon, base.segment_types) == ("gelu", 1e-5, 0)


# ---- two streams -----------------------------------------------------------------------------------------------------

# Of two rows of which the first predicts its columns 4, 1 and 5 in this order, the second its column 3 alone.
PERMUTED = Permuted(
    jnp.array([[4, 1, 5], [3, 0, 0]]),
    jnp.array([[30, 30, 7], [30, 0, 0]]),
    jnp.array([[True, True, True], [True, False, False]]),
)


def test_who_sees_whom():
    """Row by row, by hand. Columns: seven tokens, of which 4, 1 and 5 are predicted and the last is padding; what
    stands in for the three; the query stream, which nobody sees."""
    batch = {"tokens": jnp.arange(14).reshape(2, 7), "lengths": jnp.array([6, 7])}
    rows, visible = _streams(batch, PERMUTED, 16)
    given = "1011000 111 000"  # all that is given, and what stands in for the rest
    wanted = [given, "1111100 001 000", given, given, "1011100 011 000", "1111110 000 000"]
    queries = ["1011000 111 000", "1011100 011 000", "1111100 001 000"]
    found = ["".join(map(str, row)) for row in visible[0].astype(int).tolist()]
    assert found[:6] == [row.replace(" ", "") for row in wanted]
    assert found[7:10] == [given.replace(" ", "")] * 3 and found[10:] == [row.replace(" ", "") for row in queries]
    assert rows["tokens"].tolist()[0] == [0, 1, 2, 3, 4, 5, 6, 30, 30, 7, 30, 30, 7]
    assert rows["positions"].tolist()[1] == [0, 1, 2, 3, 4, 5, 6, 3, 0, 0, 3, 0, 0]
    second = ["".join(map(str, row)) for row in visible[1].astype(int).tolist()]
    assert second[3] == "1111111" + "000" + "000" and second[10] == "1110111" + "100" + "000"
    assert len(set(rows["token_index"].reshape(-1).tolist())) == 26


def test_nothing_is_told_before_its_turn(params):
    """The query stream of a predicted token depends on the tokens predicted before it, and neither on itself nor on
    those after it; the content stream of what is given on none of them."""
    batch = {"tokens": tokens(2, 9), "lengths": jnp.array([9, 6])}
    plain = encode(params, batch, PERMUTED)
    for k, column in enumerate([4, 1, 5]):
        told = encode(params, batch | {"tokens": batch["tokens"].at[0, column].set(39)}, PERMUTED)
        for i in range(3):
            apart = np.abs(told.intermediates["predicted"] - plain.intermediates["predicted"])[0, i].max()
            assert (apart > 1e-3) if i > k else (apart == 0)
        given = np.array([0, 2, 3, 6, 7, 8])
        np.testing.assert_array_equal(told.hidden[0, given], plain.hidden[0, given])
        np.testing.assert_array_equal(told.hidden[1], plain.hidden[1])


def test_padding_and_dropout(params):
    """Predictions are the same however far a row is padded, to how many columns predictions are filled up, and in
    which micro-batch the row is, with dropout; and where nothing is predicted, the content is a plain batch's."""
    batch = {"tokens": tokens(2, 9), "lengths": jnp.array([9, 6])}
    wide = {"tokens": jnp.pad(batch["tokens"], ((0, 0), (0, 7))), "lengths": batch["lengths"]}
    filled = Permuted(*(jnp.pad(x, ((0, 0), (0, 2))) for x in PERMUTED))
    rngs = {"rngs": {"dropout": jax.random.key(3)}}
    first = encode(params, batch, PERMUTED, **rngs).intermediates["predicted"]
    assert not np.allclose(first, encode(params, batch, PERMUTED).intermediates["predicted"], atol=0.1)
    second = encode(params, wide, filled, **rngs).intermediates["predicted"]
    np.testing.assert_allclose(first[0], second[0, :3], atol=1e-5)
    np.testing.assert_allclose(first[1, :1], second[1, :1], atol=1e-5)
    part = {name: x[:1] for name, x in batch.items()} | {"row": jnp.array([0], jnp.uint32)}
    alone = encode(params, part, Permuted(*(x[:1] for x in PERMUTED)), **rngs).intermediates["predicted"]
    np.testing.assert_allclose(first[:1], alone, atol=1e-5)
    nothing = PERMUTED._replace(there=jnp.zeros((2, 3), bool))
    real = (np.arange(9) < np.array([[9], [6]]))[..., None]
    both = encode(params, batch, nothing), encode(params, batch)
    np.testing.assert_allclose(both[0].hidden * real, both[1].hidden * real, atol=1e-5)
    assert both[0].intermediates["layers"].shape == both[1].intermediates["layers"].shape


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sequence_ids": jnp.ones((2, 9), int)}, "right-padded rows .* the batch has sequence_ids"),
        ({"packing": jnp.zeros((1, 1, 18), int)}, "the batch has packing"),
        ({"tokens": jnp.ones((2, 65), int)}, "rows of 65 tokens, but max_length is 64"),
    ],
)
def test_what_two_streams_are_not_of(params, more, message):
    """Said before anything is computed."""
    with pytest.raises(ValueError, match=message):
        encode(params, {"tokens": tokens(2, 9), "lengths": jnp.array([9, 6])} | more, PERMUTED)

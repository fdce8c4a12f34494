"""What is XLNet's own: no place but relative ones, segments that are only compared, two streams that tell no answer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.packing import plan
from bert_jax.models.encoded import Encoded
from bert_jax.models.xlnet import Xlnet, xlnet
from bert_jax.objectives.classify import Classify

SIZES = {"vocab_size": 40, "num_layers": 2, "width": 24, "num_heads": 2, "mlp_width": 36, "max_length": 32}


@pytest.fixture(scope="module")
def model():
    """An encoder, and random weights that matter."""
    encoder = Xlnet(**SIZES, init_stddev=0.4, scan=True, dtype="float32")
    params = nn.unbox(jax.jit(encoder.init)(jax.random.key(0), {"tokens": jnp.ones((1, 2), int)})["params"])
    return encoder, params


def tokens(rows, length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(1, 40, (rows, length)), jnp.int32)


def test_packed_as_padded(model):
    """Rows of sequences of two segments, packed, with dropout: hidden states and gradients are those of padded rows."""
    encoder, params = model
    lengths = np.array([22, 11, 9, 17], np.int32)
    batch = {
        "tokens": tokens(4, 24) * (jnp.arange(24) < lengths[:, None]),
        "segments": (jnp.arange(24) > lengths[:, None] // 2).astype(jnp.int32),
        "lengths": jnp.asarray(lengths),
    }
    packing = jnp.asarray(plan(lengths, 24, 40))
    assert packing.shape[1] == 2  # four rows in two

    @jax.jit
    def hidden(params, batch):
        found = encoder.apply({"params": params}, batch, True, rngs={"dropout": jax.random.key(1)}).hidden
        return found * (jnp.arange(24) < lengths[:, None])[..., None]

    def loss(params, batch):
        return jnp.sum(jnp.sin(hidden(params, batch)))

    packed = batch | {"packing": packing}
    np.testing.assert_allclose(hidden(params, packed), hidden(params, batch), atol=2e-5)
    found = (jax.jit(jax.grad(loss))(params, own) for own in (packed, batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()), *found)


def test_places_are_relative(model):
    """A sequence is the same at the end of a row as at its beginning, and is not the same backwards."""
    encoder, params = model
    hidden = jax.jit(lambda batch: encoder.apply({"params": params}, batch).hidden)
    own = tokens(1, 7)
    first = hidden({"tokens": jnp.pad(own, ((0, 0), (0, 5))), "sequence_ids": jnp.array([[1] * 7 + [0] * 5])})
    last = hidden({"tokens": jnp.pad(own, ((0, 0), (5, 0))), "sequence_ids": jnp.array([[0] * 5 + [1] * 7])})
    np.testing.assert_allclose(first[:, :7], last[:, 5:], atol=1e-5)
    ids = jnp.array([[1] * 7 + [0] * 5])
    backwards = hidden({"tokens": jnp.pad(own[:, ::-1], ((0, 0), (0, 5))), "sequence_ids": ids})
    assert not np.allclose(backwards[:, :7], first[:, 6::-1], atol=1e-2)


def test_segments_are_compared(model):
    """Which number a segment has does not matter, but which tokens share it; one for all is as none."""
    encoder, params = model
    hidden = jax.jit(lambda batch: encoder.apply({"params": params}, batch).hidden)
    batch = {"tokens": tokens(1, 6)}
    found = [
        hidden(batch | {"segments": jnp.array([own])}) for own in ([0, 0, 0, 1, 1, 2], [3, 3, 3, 0, 0, 4], [2] * 6)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2], atol=1e-2)
    np.testing.assert_allclose(found[2], hidden(batch), atol=1e-5)


def test_what_each_stream_sees(model):
    """Of a row in which the tokens 5, 1 and 3 are put in order: the second stream at a place changes with what is given
    and with what is before the place in the order, and with nothing else, least of all with the token there; so does
    the first, which sees its own token, too; what is given changes with nothing but what is given."""
    encoder, params = model
    order = jnp.array([[0, 2, 0, 3, 0, 1, 0, 0]])  # the last is padding
    batch = {"order": order, "asked": jnp.array([[1, 3, 5]]), "lengths": jnp.array([7], jnp.int32)}

    @jax.jit
    def states(tokens):
        encoded = encoder.apply({"params": params}, batch | {"tokens": tokens})
        return encoded.hidden[0], encoded.intermediates["asked"][0]

    own = tokens(1, 8)
    content, query = states(own)
    for column in range(8):
        other = states(own.at[0, column].set(own[0, column] % 39 + 1))
        changed = {at for at in range(7) if not np.allclose(content[at], other[0][at], atol=1e-6)}
        asked = {at for i, at in enumerate([1, 3, 5]) if not np.allclose(query[i], other[1][i], atol=1e-6)}
        later = {5: {1, 3}, 1: {3}, 3: set()}
        everything = set(range(7))
        wanted = (later[column] | {column}, later[column]) if column in later else (everything, {1, 3, 5})
        assert (changed, asked) == ((set(), set()) if column == 7 else wanted)


def test_an_order_without_answers_is_one_stream(model):
    """Where all is given, the first stream is what the encoder computes of the row."""
    encoder, params = model
    batch = {"tokens": tokens(2, 9), "segments": jnp.ones((2, 9), jnp.int32), "lengths": jnp.array([9, 4], jnp.int32)}
    order = {"order": jnp.zeros((2, 9), jnp.int32), "asked": jnp.zeros((2, 2), jnp.int32)}
    apply = jax.jit(encoder.apply)
    one, two = (apply({"params": params}, own).hidden for own in (batch, batch | order))
    real = np.arange(9) < np.array([[9], [4]])
    np.testing.assert_allclose(np.asarray(one)[real], np.asarray(two)[real], atol=1e-5)


def test_dropout_does_not_depend_on_the_width_of_a_batch(model):
    """Both streams are the same however far a row is padded, to how many places those asked are filled up, and in which
    micro-batch the row is."""
    _, params = model
    encoder = Xlnet(**SIZES | {"dropout": 0.3, "attention_dropout": 0.3})
    asked = jnp.array([[1, 3, 5], [2, 4, 0]])
    order = jnp.array([[0, 2, 0, 3, 0, 1, 0, 0], [0, 0, 1, 0, 2, 0, 0, 0]])
    batch = {"tokens": tokens(2, 8), "order": order, "asked": asked, "lengths": jnp.array([8, 6], jnp.int32)}
    wide = {name: jnp.pad(batch[name], ((0, 0), (0, 5))) for name in ("tokens", "order", "asked")}
    alone = {name: x[1:] for name, x in batch.items()} | {"row": jnp.array([1], jnp.uint32)}

    def streams(batch, train=True):
        encoded = encoder.apply({"params": params}, batch, train, rngs={"dropout": jax.random.key(0)})
        return encoded.hidden[-1, :6], encoded.intermediates["asked"][-1, :2]

    for stream, padded, single, plain in zip(
        streams(batch), streams(batch | wide), streams(alone), streams(batch, train=False), strict=True
    ):
        np.testing.assert_allclose(stream, padded, atol=1e-5)
        np.testing.assert_allclose(stream, single, atol=1e-5)
        assert not np.allclose(stream, plain, atol=0.1)


def in_chunks(order=False):
    """Two rows of 14 and 9 tokens; with an order two places of each chunk of 5 are asked for."""
    batch = {"tokens": tokens(2, 14), "lengths": jnp.array([14, 9], jnp.int32)}
    if order:
        places = jnp.array([1, 3, 5, 9, 10, 13])
        ranks = jnp.zeros((2, 14), jnp.int32).at[:, places].set(jnp.array([[2, 1, 1, 3, 1, 2], [1, 2, 2, 1, 1, 2]]))
        batch |= {"order": ranks, "asked": jnp.tile(places, (2, 1))}
    return batch


def test_without_a_memory_chunks_are_rows(model):
    """Each is computed as if it were alone, padding or not, with an order or without; so is a row that is no longer
    than a chunk."""
    encoder, params = model
    apply = jax.jit(lambda encoder, batch: encoder.apply({"params": params}, batch), static_argnums=0)
    for order in (False, True):
        batch = in_chunks(order)
        found = apply(encoder.clone(chunk=5), batch)
        for chunk, columns in enumerate([slice(0, 5), slice(5, 10), slice(10, 14)]):
            own = {name: batch[name][:, columns] for name in ("tokens", "order") if name in batch}
            own["lengths"] = jnp.clip(batch["lengths"] - columns.start, 0, columns.stop - columns.start)
            if order:
                own["asked"] = batch["asked"][:, 2 * chunk : 2 * chunk + 2] - columns.start
            alone = apply(encoder, own)
            real = np.arange(columns.stop - columns.start) < np.asarray(own["lengths"])[:, None]
            np.testing.assert_allclose(found.hidden[:, columns][real], alone.hidden[real], atol=1e-5)
            for name in ("embeddings", "layers"):
                states = found.intermediates[name][..., columns, :]
                np.testing.assert_allclose(states[..., real, :], alone.intermediates[name][..., real, :], atol=1e-5)
            if order and chunk < 2:  # the second row has nothing in the last one
                seen = found.intermediates["asked"][:, 2 * chunk : 2 * chunk + 2]
                np.testing.assert_allclose(seen, alone.intermediates["asked"], atol=1e-5)
        whole = apply(encoder.clone(chunk=14, memory=6), batch)
        np.testing.assert_array_equal(whole.hidden, apply(encoder, batch).hidden)


def test_how_far_a_memory_reaches(model):
    """Each of the two layers sees the columns before a chunk as the layer below left them; so what is just too far away
    is seen through its neighbours. Of its own chunk a token sees all. No gradient goes through a memory."""
    encoder, params = model
    encoder = encoder.clone(chunk=4, memory=3)
    own = jnp.arange(1, 17)[None]  # no token twice

    @jax.jit
    def hidden(table):
        changed = params | {"embeddings": params["embeddings"] | {"words": {"table": table}}}
        return encoder.apply({"params": changed}, {"tokens": own}).hidden[0]

    table = params["embeddings"]["words"]["table"]
    before = hidden(table)
    reach = {0: 8, 1: 12, 3: 12, 4: 12, 5: 16, 11: 16, 12: 16}  # changes are seen up to there
    for column, last in reach.items():
        changed = np.abs(hidden(table.at[own[0, column]].add(1.0)) - before).max(axis=1) > 1e-6
        assert np.flatnonzero(changed).tolist() == list(range(column // 4 * 4, last)), column
    jacobian = jax.jit(jax.jacobian(lambda table: hidden(table)[:, 0]))(table)  # [L, V, D]
    reached = np.abs(jacobian[:, own[0]]).max(axis=2) > 1e-6
    np.testing.assert_array_equal(reached, np.kron(np.eye(4, dtype=bool), np.ones((4, 4), bool)))


def test_gradient_of_the_parameters_through_a_memory(model):
    """Keys and values of a memory are projected by the layer that reads it, and the projection has a gradient. In one
    layer, where the memory depends on no other parameter, that is the slope."""
    encoder, params = model
    encoder = encoder.clone(chunk=4, memory=3, num_layers=1)
    params = params | {"layers": jax.tree.map(lambda leaf: leaf[:1], params["layers"])}
    batch = {"tokens": tokens(1, 8)}

    def second(params):
        return jnp.sum(jnp.sin(encoder.apply({"params": params}, batch).hidden[:, 4:]))

    gradient = jax.jit(jax.grad(second))(params)["layers"]["attention"]["qkv"]["kernel"][0]
    kernel = params["layers"]["attention"]["qkv"]["kernel"]
    direction = jnp.asarray(np.random.default_rng(3).normal(size=kernel.shape), jnp.float32)

    def moved(step):
        attention = params["layers"]["attention"] | {"qkv": {"kernel": kernel + step * direction}}
        return second(params | {"layers": params["layers"] | {"attention": attention}})

    step = 3e-3
    slope = (moved(step) - moved(-step)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(gradient * direction[0]), slope, rtol=2e-3)


def test_dropout_in_chunks_does_not_depend_on_the_width_of_a_batch(model):
    """One stream and two, with a memory, are the same however far a row is padded and in which micro-batch it is."""
    _, params = model
    encoder = Xlnet(**SIZES | {"dropout": 0.3, "attention_dropout": 0.3}, chunk=5, memory=4)

    def streams(batch, train=True):
        encoded = encoder.apply({"params": params}, batch, train, rngs={"dropout": jax.random.key(0)})
        return encoded.hidden[1, :9], encoded.intermediates.get("asked", encoded.hidden)[1, :4]

    for order in (False, True):
        batch = in_chunks(order)
        wide = {name: jnp.pad(batch[name], ((0, 0), (0, 6))) for name in ("tokens", "order") if name in batch}
        if order:  # of four chunks
            wide["asked"] = jnp.concatenate([batch["asked"], jnp.full((2, 2), 15)], axis=1)
        alone = {name: x[1:] for name, x in batch.items()} | {"row": jnp.array([1], jnp.uint32)}
        alone = {name: jnp.concatenate([x, x]) for name, x in alone.items()}
        for stream, padded, single, plain in zip(
            streams(batch), streams(batch | wide), streams(alone), streams(batch, train=False), strict=True
        ):
            np.testing.assert_allclose(stream, padded, atol=1e-5)
            np.testing.assert_allclose(stream, single, atol=1e-5)
            assert not np.allclose(stream, plain, atol=0.1)


@pytest.mark.parametrize(
    ("fields", "more", "message"),
    [
        ({"attention": "xla"}, {}, "relative attention is computed by 'plain' alone"),
        ({}, {"order": 9, "sequence_ids": 9}, "an order and chunks are of right-padded rows"),
        ({"chunk": 4}, {"sequence_ids": 9}, "an order and chunks are of right-padded rows"),
        ({"max_length": 8}, {"order": 9}, "rows of 9 tokens, and max_length is 8"),
        ({"max_length": 8, "chunk": 4}, {}, "rows of 9 tokens, and max_length is 8"),
        ({"memory": 4}, {}, "chunk is 0 and memory 4"),
        ({"chunk": 4}, {"order": 9}, "2 places are asked for, which is no multiple of the 3 chunks"),
    ],
)
def test_what_is_refused(fields, more, message):
    """Before compilation, with what and why."""
    batch = {"tokens": tokens(1, 9)} | {name: jnp.zeros((1, count), jnp.int32) for name, count in more.items()}
    batch |= {"asked": jnp.zeros((1, 2), jnp.int32)} if "order" in more else {}
    encoder = Xlnet(**SIZES | fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: encoder.init(jax.random.key(0), batch))


def test_a_head_reads_the_last_token():
    """That of each row, whatever stands before it and behind."""
    head = Classify(3, hidden="last_tanh")
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    encoded = Encoded(hidden, None, jnp.zeros((4, 8)), {}, lengths=jnp.array([5, 2], jnp.int32))
    params = nn.unbox(head.init(jax.random.key(0), encoded, method="outputs")["params"])
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), params)
    found = head.apply({"params": params}, encoded, method="outputs")["logits"]
    last = np.stack([hidden[0, 4], hidden[1, 1]])
    wide = np.tanh(last @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    np.testing.assert_allclose(found, wide @ params["output"]["kernel"] + params["output"]["bias"], rtol=1e-4)


def test_sizes():
    """Those of the released models; an unknown one is an error."""
    assert xlnet("large", dropout=0.0) == Xlnet(
        num_layers=24, width=1024, num_heads=16, mlp_width=4096, max_length=512, dropout=0.0
    )
    assert xlnet("base") == Xlnet()
    with pytest.raises(KeyError):
        xlnet("huge")

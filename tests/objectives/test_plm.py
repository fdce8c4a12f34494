"""Permutation language modelling: what is predicted, in which order, and what the head makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.bert import Bert
from bert_jax.models.encoded import Encoded
from bert_jax.models.xlnet import Xlnet
from bert_jax.objectives.ngrams import Ngrams
from bert_jax.objectives.plm import Plm

PAD, UNK, CLS, SEP, MASK = range(5)
V, LENGTH, ROWS = 60, 36, 60
PLM = Plm(vocab_size=V, special_ids=(CLS, SEP, MASK), max_predictions=7)


def rows():
    """[CLS] A [SEP] B [SEP] and padding, of 3 tokens and more."""
    rng = np.random.default_rng(0)
    lengths = np.resize([36, 30, 12, 3], ROWS).astype(np.int32)
    tokens = np.full((ROWS, LENGTH), PAD, np.int32)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = rng.integers(5, V, length)
        row[[0, length // 2, length - 1]] = CLS, SEP, SEP
        row[1] = 5
    return {
        "tokens": jnp.asarray(tokens),
        "lengths": jnp.asarray(lengths),
        "weight": jnp.asarray(np.arange(ROWS) != 4, jnp.float32),
        "continues": jnp.asarray(rng.random(tokens.shape) < 0.4),
    }


def corrupted(objective, batch, order=slice(None)):
    keys = jax.random.split(jax.random.key(0), ROWS)[order]
    batch = {name: value[order] for name, value in batch.items()}
    return jax.tree.map(np.asarray, jax.jit(objective.corrupt)(keys, batch))


@pytest.mark.parametrize("masking", [None, Ngrams(longest=5)])
def test_what_is_predicted(masking):
    """About a sixth of a row's tokens, never [CLS], [SEP] or padding; they and the special tokens have the places 1, 2,
    ... in the order, all others are given; labels are the tokens, which stay as they are; filler has no weight."""
    batch = rows()
    found = corrupted(PLM.clone(masking=masking), batch)
    np.testing.assert_array_equal(found["tokens"], batch["tokens"])
    for row in range(ROWS):
        tokens, length, order, weights = (found[name][row] for name in ("tokens", "lengths", "order", "plm_weights"))
        ordered, special = np.flatnonzero(order), np.flatnonzero((tokens == CLS) | (tokens == SEP))
        assert sorted(order[ordered]) == list(range(1, len(ordered) + 1)) and ordered.max() < length
        assert set(special) <= set(ordered)
        predicted = np.setdiff1d(ordered, special)
        most = {36: 6, 30: 5, 12: 2, 3: 1}[int(length)]
        assert len(predicted) == most if masking is None else 1 <= len(predicted) <= most
        count = len(predicted)
        np.testing.assert_array_equal(found["asked"][row], np.pad(predicted, (0, 7 - count)))
        np.testing.assert_array_equal(found["plm_labels"][row], np.pad(tokens[predicted], (0, 7 - count)))
        np.testing.assert_array_equal(weights, np.arange(7) < (0 if row == 4 else count))


def test_the_order_is_random():
    """Of the tokens that are predicted each is as often the first one of them; rows have orders of their own, which are
    functions of their keys alone."""
    batch = rows()
    found = corrupted(PLM, batch)
    backwards = corrupted(PLM, batch, slice(None, None, -1))
    for name in ("order", "asked", "plm_labels"):
        np.testing.assert_array_equal(found[name], backwards[name][::-1])
    same = {name: jnp.repeat(value[:1], 900, axis=0) for name, value in batch.items()}
    many = jax.jit(PLM.corrupt)(jax.random.split(jax.random.key(1), 900), same)
    places = np.take_along_axis(np.asarray(many["order"]), np.asarray(many["asked"])[:, :6], axis=1)
    first = np.bincount(places.argmin(axis=1), minlength=6)
    assert first.sum() == 900 and (np.abs(first - 150) < 60).all()  # of deviation 11
    chosen = np.zeros(LENGTH, int)
    np.add.at(chosen, np.asarray(many["asked"])[:, :6], 1)
    special = np.isin(np.asarray(batch["tokens"][0]), (CLS, SEP))
    assert not chosen[special].any() and (np.abs(chosen[~special] - 900 * 6 / 33) < 65).all()  # of deviation 12


@pytest.mark.parametrize("masking", [None, Ngrams(longest=5)])
def test_chunks_have_orders_of_their_own(masking):
    """Of each chunk of 16 tokens a sixth is predicted and its places are asked for, in an order that begins anew; none
    has the order or the choice of another; rows that are no longer than a chunk are as without."""
    batch = rows()
    objective = PLM.clone(masking=masking, chunk=16, max_predictions=3)
    found = corrupted(objective, batch)
    assert found["asked"].shape == found["plm_weights"].shape == (ROWS, 9)
    for row in range(ROWS):
        tokens, length, order = (found[name][row] for name in ("tokens", "lengths", "order"))
        for chunk, start in enumerate((0, 16, 32)):
            own = slice(start, min(start + 16, LENGTH))
            real = max(0, min(length - start, 16))
            asked, weights = (found[name][row, 3 * chunk : 3 * chunk + 3] for name in ("asked", "plm_weights"))
            ordered = start + np.flatnonzero(order[own])
            assert sorted(order[ordered]) == list(range(1, len(ordered) + 1))
            special = np.flatnonzero((tokens[own] == CLS) | (tokens[own] == SEP)) + start
            predicted = np.setdiff1d(ordered, special[special < start + real])
            most = {16: 3, 14: 2, 12: 2, 4: 1, 3: 1, 0: 0}[int(real)]
            assert len(predicted) == most if masking is None else len(predicted) <= most
            np.testing.assert_array_equal(weights, np.arange(3) < (0 if row == 4 else len(predicted)))
            np.testing.assert_array_equal(asked, np.pad(predicted, (0, 3 - len(predicted)), constant_values=start))
    plain = batch | {"tokens": jnp.full((ROWS, LENGTH), 9), "lengths": jnp.full(ROWS, LENGTH)}
    first, second = (corrupted(objective, plain)["order"][:, own] for own in (slice(0, 16), slice(16, 32)))
    assert (first == second).all(axis=1).mean() < 0.05  # of thousands of choices and orders hardly ever the same
    short = {name: value[:, :16] if value.ndim == 2 else value for name, value in batch.items()}
    short["lengths"] = jnp.minimum(short["lengths"], 16)
    whole, one = (corrupted(own, short) for own in (PLM.clone(masking=masking, max_predictions=3), objective))
    jax.tree.map(np.testing.assert_array_equal, whole, one)


def test_the_head_by_hand():
    """Scores are products with the table of tokens and a bias; loss and accuracy are over what has a weight."""
    rng = np.random.default_rng(0)
    table, asked = (rng.normal(size=shape).astype(np.float32) for shape in ((V, 8), (2, 3, 8)))
    encoded = Encoded(jnp.zeros((2, 5, 8)), None, jnp.asarray(table), {"asked": jnp.asarray(asked)})
    labels, weights = np.array([[4, 9, 0], [7, 0, 0]]), np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    batch = {"plm_labels": jnp.asarray(labels), "plm_weights": jnp.asarray(weights)}
    bias = rng.normal(size=V).astype(np.float32)
    found = PLM.apply({"params": {"bias": jnp.asarray(bias)}}, encoded, batch, True)
    logits = asked @ table.T + bias
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found["loss"].value, (losses * weights).sum() / 3, rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"].value, ((logits.argmax(-1) == labels) * weights).sum() / 3)


def test_what_is_refused():
    """An encoder of one stream, a vocabulary that is not there, and another one."""
    PLM.check_encoder(Xlnet())
    with pytest.raises(ValueError, match="Plm needs an encoder of two streams, such as Xlnet, and not Bert"):
        PLM.check_encoder(Bert())
    with pytest.raises(ValueError, match="Plm has chunk 0 and the encoder 128: both must cut rows"):
        PLM.check_encoder(Xlnet(chunk=128))
    with pytest.raises(ValueError, match="Plm has no vocabulary"):
        Plm().corrupt(jax.random.split(jax.random.key(0), ROWS), rows())
    with pytest.raises(ValueError, match="the tokenizer has 61"):
        PLM.for_vocabulary(61, (CLS, SEP, MASK))

"""Masks of n-grams: the original's rules word for word, and their statistics."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.ngrams import Ngrams

CLS, SEP, MASK, V = 2, 3, 4, 50
MLM = Mlm(max_predictions=6, vocab_size=V, special_ids=(CLS, SEP, MASK), masking=Ngrams())


def corrupted(objective, batch, seed=0):
    keys = jax.vmap(jax.random.key)(jnp.arange(len(batch["tokens"])) + seed)
    return jax.tree.map(np.asarray, jax.jit(objective.corrupt)(keys, jax.tree.map(jnp.asarray, batch)))


def rows(lengths, width, seed=0):
    """`[CLS] ... [SEP] ... [SEP]` of these lengths, with words of one to four pieces."""
    rng = np.random.default_rng(seed)
    lengths = np.array(lengths, np.int32)
    tokens = rng.integers(5, V, (len(lengths), width), np.int32)
    tokens[:, 0] = CLS
    for row, length in enumerate(lengths):
        tokens[row, [length // 2, length - 1]] = SEP
        tokens[row, length:] = 0
    continues = rng.random(tokens.shape) < 0.4
    return {"tokens": tokens, "lengths": lengths, "continues": continues, "weight": np.ones(len(lengths), np.float32)}


def original(words, order, drawn, count):
    """The loop of the original over words, each a list of positions: (lengths of the n-grams in words, positions)."""
    covered, taken = [], []
    for first in order:
        if len(covered) >= count:
            break
        n = drawn[first]
        chosen = list(itertools.chain(*words[first : first + n]))
        while len(covered) + len(chosen) > count and n > 1:
            n -= 1
            chosen = list(itertools.chain(*words[first : first + n]))
        if len(covered) + len(chosen) > count or set(chosen) & set(covered):
            continue
        covered += chosen
        taken.append(n)
    return taken, sorted(covered)


@pytest.mark.parametrize("longest", [1, 3])
def test_the_loop_of_the_original(longest):
    """Fed with the same order of words and the same draws, 200 random rows give the same positions."""
    rng = np.random.default_rng(0)
    length = 24
    candidate = (rng.random((200, length)) < 0.9) & (np.arange(length) < rng.integers(0, length + 1, (200, 1)))
    continues = rng.random((200, length)) < rng.random((200, 1))
    score, drawn = rng.random((200, length)).astype(np.float32), rng.integers(1, longest + 1, (200, length), np.int32)
    count = rng.integers(0, 9, 200).astype(np.int32)
    choose = jax.jit(jax.vmap(Ngrams(longest)._choose_row))
    got, lengths = np.asarray(choose(score, drawn, candidate, continues, count)), collections.Counter()
    for row in range(200):
        words = []
        for at in np.flatnonzero(candidate[row]):
            if words and continues[row, at]:
                words[-1].append(at)
            else:
                words.append([at])
        taken, want = original(words, np.argsort(score[row][: len(words)]), drawn[row], count[row])
        lengths.update(taken)
        assert np.flatnonzero(got[row]).tolist() == want, row
    assert set(lengths) == set(range(1, longest + 1))


def test_shares_are_those_of_the_paper():
    """p(1), p(2), p(3) are as 6 : 3 : 2; a single word otherwise."""
    np.testing.assert_allclose(Ngrams().shares(), np.array([6, 3, 2]) / 11)
    assert Ngrams(1).shares() == 1
    with pytest.raises(ValueError, match="longest 0"):
        Ngrams(0)


def test_lengths_are_drawn_so():
    """Three tokens of a long row of short words: one n-gram of three 2/11 of the time, two (after 2, or after 1 where
    what is drawn next is longer) 63/121, or three single ones 36/121; n-grams seldom touch in rows of 500."""
    rows_, length = 3000, 500
    candidate, nothing = jnp.ones((rows_, length), bool), jnp.zeros((rows_, length), bool)
    keys = jax.random.split(jax.random.key(0), rows_)
    chosen, _ = jax.jit(Ngrams().choose)(keys, candidate, nothing, jnp.full(rows_, 3))
    chosen = np.asarray(chosen)
    assert (chosen.sum(1) == 3).all()
    starts = (chosen & ~np.pad(chosen, ((0, 0), (1, 0)))[:, :-1]).sum(1)
    found = np.bincount(starts, minlength=4)[1:] / rows_
    np.testing.assert_allclose(found, [2 / 11, 63 / 121, 36 / 121], atol=0.035)
    # Each place of the row is as likely as any other, but for its ends.
    tenths = chosen.reshape(rows_, 10, -1).sum((0, 2)) / chosen.sum()
    np.testing.assert_allclose(tenths, 0.1, atol=0.015)


@pytest.mark.parametrize("whole_word", [True, False])
def test_through_the_objective(whole_word):
    """Whole words, or single pieces; never more than the share, never a special token; several words in a row are
    chosen, and each piece has a coin of its own."""
    batch = rows([40, 33, 20, 26] * 50, 40)
    found = corrupted(MLM.clone(masking=Ngrams(whole_word=whole_word)), batch)
    chosen = np.zeros(batch["tokens"].shape, bool)
    places, weights = found["mlm_positions"], found["mlm_weights"] > 0
    np.put_along_axis(chosen, places, weights, axis=1)
    chosen[:, 0] = False
    assert (chosen.sum(1) == weights.sum(1)).all() and (batch["tokens"][chosen] >= 5).all()
    assert (chosen.sum(1) <= np.minimum(6, np.round(0.15 * batch["lengths"]))).all() and chosen.sum(1).min() > 0
    inside = batch["continues"][:, 2:] & (batch["tokens"][:, 2:] >= 5) & (batch["tokens"][:, 1:-1] >= 5)
    torn = inside & (chosen[:, 2:] != chosen[:, 1:-1])
    assert torn.any() != whole_word
    masked = found["tokens"] == MASK
    assert (chosen[:, 1:] & chosen[:, :-1] & (masked[:, 1:] != masked[:, :-1])).any()


def test_a_row_depends_on_its_own_key_only():
    """In another order, among other rows, each example is corrupted as before."""
    batch = rows([40, 7, 22, 31, 12] * 4, 40)
    keys = jax.random.split(jax.random.key(5), 20)
    order = np.random.default_rng(0).integers(0, 20, 20)
    corrupt = jax.jit(MLM.corrupt)
    before = corrupt(keys, jax.tree.map(jnp.asarray, batch))
    after = corrupt(keys[order], {name: jnp.asarray(value[order]) for name, value in batch.items()})
    for name, value in after.items():
        np.testing.assert_array_equal(value, np.asarray(before[name])[order], err_msg=name)

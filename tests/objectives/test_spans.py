"""Span masking: how long spans are, that they are of whole words, and that one coin decides for a span."""

import functools
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.spans import Spans
from tests.objectives.test_mlm import CLS, MASK, SEP, SPECIAL, V

ROWS, LENGTH = 200, 256


@functools.partial(jax.jit, static_argnums=0)
def choose(spans, keys, candidate, continues, count):
    return spans.choose(keys, candidate, continues, count)


@functools.partial(jax.jit, static_argnums=0)
def corrupt(objective, keys, batch):
    return objective.corrupt(keys, batch)


def keys_of(rows, seed=0):
    return jax.random.split(jax.random.key(seed), rows)


def words_of(candidate, continues):
    """(first, one after the last) of each word of a row; a special token ends one."""
    words = []
    for i in np.flatnonzero(candidate).tolist():
        if words and continues[i] and words[-1][1] == i:
            words[-1] = words[-1][0], i + 1
        else:
            words.append((i, i + 1))
    return words


def runs_of(chosen):
    """(first, one after the last) of each run of a row."""
    runs = [list(group) for yes, group in groupby(range(len(chosen)), key=lambda i: bool(chosen[i])) if yes]
    return [(run[0], run[-1] + 1) for run in runs]


def row_by_row(score, words, candidate, continues, count):
    """The loop of the released code over one row, spans ending before a word that does not fit."""
    bounds, chosen, passed = words_of(candidate, continues), set(), set()
    while len(chosen) < count:
        free = [i for i in np.flatnonzero(candidate) if i not in chosen | passed]
        if not free:
            break
        anchor = min(free, key=lambda i: score[i])
        number = next(n for n, (start, stop) in enumerate(bounds) if start <= anchor < stop)
        before = len(chosen)
        for n in range(number, min(number + words[anchor], len(bounds))):
            start, stop = bounds[n]
            if n > number and start != bounds[n - 1][1]:
                break  # a special token stands between
            if len(chosen | set(range(start, stop))) > count:
                break
            chosen |= set(range(start, stop))
        if len(chosen) == before:
            passed |= set(range(*bounds[number]))
    return np.isin(np.arange(len(candidate)), sorted(chosen))


@pytest.fixture(scope="module")
def many():
    """Rows `[CLS] A [SEP] B [SEP]` of words of one to four pieces, and what becomes of them."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, V, (ROWS, LENGTH), np.int32)
    tokens[:, 0], tokens[:, -1] = CLS, SEP
    tokens[np.arange(ROWS), rng.integers(20, LENGTH - 20, ROWS)] = SEP
    continues = rng.random(tokens.shape) < 0.3
    batch = {"tokens": tokens, "lengths": np.full(ROWS, LENGTH, np.int32), "continues": continues}
    batch = jax.tree.map(jnp.asarray, batch | {"weight": np.ones(ROWS, np.float32)})
    objective = Mlm(vocab_size=V, special_ids=SPECIAL, max_predictions=40, masking=Spans())
    return batch, jax.tree.map(np.asarray, corrupt(objective, keys_of(ROWS), batch))


def chosen_of(result):
    chosen = np.zeros(result["tokens"].shape, bool)
    rows, places = np.nonzero(result["mlm_weights"])
    chosen[rows, result["mlm_positions"][rows, places]] = True
    return chosen


def test_mean_length_of_the_paper():
    """Section 3.1: p = 0.2 clipped at 10 makes 3.8 words on average; each length a fifth less likely than the last."""
    shares = Spans().shares()
    assert np.sum(shares * np.arange(1, 11)) == pytest.approx(3.797, abs=5e-4) and shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares[1:] / shares[:-1], 0.8)


@pytest.mark.parametrize("spans", [Spans(), Spans(p=0.5, longest=3), Spans(longest=1)])
def test_histogram_of_lengths(spans):
    """What is drawn has the distribution, to its ends."""
    found = np.bincount(np.asarray(spans.draw(jax.random.key(1), 20_000)), minlength=spans.longest + 1)
    assert found[0] == 0 and len(found) == spans.longest + 1
    assert spans.longest == 1 or chisquare(found[1:], 20_000 * spans.shares()).pvalue > 1e-3


@pytest.mark.parametrize("spans", [Spans(), Spans(p=0.6, longest=4)])
def test_it_follows_the_loop_of_the_original(spans):
    """The same draws make the same choice, with words of many pieces, special tokens inside, any share."""
    rng, rows, length = np.random.default_rng(2), 120, 30
    candidate, continues = rng.random((rows, length)) < 0.9, rng.random((rows, length)) < 0.4
    count, keys = rng.integers(0, 14, rows).astype(np.int32), keys_of(rows, 3)
    found, coin_of = choose(spans, keys, jnp.asarray(candidate), jnp.asarray(continues), jnp.asarray(count))
    halves = jax.vmap(jax.random.split)(keys)
    scores = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (length,)))(halves[:, 0]))
    words = np.asarray(jax.vmap(lambda key: spans.draw(key, length))(halves[:, 1]))
    wanted = [row_by_row(*row) for row in zip(scores, words, candidate, continues, count, strict=True)]
    np.testing.assert_array_equal(found, wanted)
    for row, coins in zip(wanted, np.asarray(coin_of), strict=True):
        first = np.arange(length)
        for start, stop in runs_of(row):
            first[start:stop] = start
        np.testing.assert_array_equal(coins, first)


def test_whole_words_and_no_special_tokens(many):
    """A word is chosen whole or not at all; [CLS] and [SEP] never; spans end at a [SEP]."""
    batch, result = many
    tokens, chosen = np.asarray(batch["tokens"]), chosen_of(result)
    candidate = (tokens != CLS) & (tokens != SEP)
    assert not np.any(chosen & ~candidate)
    for row, real, continues in zip(chosen, candidate, np.asarray(batch["continues"]), strict=True):
        for start, stop in words_of(real, continues):
            assert row[start:stop].all() or not row[start:stop].any()


def test_share_that_is_masked(many):
    """15 %, which the words that fit last fill up, nearly always to the token: 38 of 256."""
    count = chosen_of(many[1]).sum(1)
    assert count.max() == 38 and count.mean() > 37.9


def test_spans_of_a_row(many):
    """Far fewer spans than tokens. In words they are about as long as the paper says: overlaps make them longer, ends
    of rows and the share shorter."""
    batch, result = many
    lengths = []
    for row, continues in zip(chosen_of(result), np.asarray(batch["continues"]), strict=True):
        lengths += [1 + np.count_nonzero(~continues[start + 1 : stop]) for start, stop in runs_of(row)]
    assert 3.4 < np.mean(lengths) < 4.6


def test_one_coin_a_span(many):
    """All tokens of a span are [MASK], or random, or stay: 80/10/10 of the spans, and each random token is its own."""
    batch, result = many
    tokens, shown = np.asarray(batch["tokens"]), result["tokens"]
    outcomes, random_tokens = np.zeros(3, int), []
    for before, after, row in zip(tokens, shown, chosen_of(result), strict=True):
        np.testing.assert_array_equal(before[~row], after[~row])
        for start, stop in runs_of(row):
            was, now = before[start:stop], after[start:stop]
            if stop - start < 3:
                continue  # a random token can be the one that was there, or [MASK]
            outcome = 0 if (now == MASK).all() else 2 if (now == was).all() else 1
            assert outcome != 1 or (np.mean(now == MASK) < 0.5 and np.mean(now == was) < 0.5)
            outcomes[outcome] += 1
            random_tokens += now.tolist() if outcome == 1 else []
    assert chisquare(outcomes, outcomes.sum() * np.array([0.8, 0.1, 0.1])).pvalue > 1e-3
    assert len(np.unique(random_tokens)) > 0.9 * V


def test_a_row_depends_on_its_own_key_only(many):
    """And not on its place in a batch."""
    batch, result = many
    objective = Mlm(vocab_size=V, special_ids=SPECIAL, max_predictions=40, masking=Spans())
    order = np.arange(ROWS)[::-1]
    again = corrupt(objective, keys_of(ROWS)[order], {name: value[order] for name, value in batch.items()})
    for name in ("tokens", "mlm_positions", "mlm_labels"):
        np.testing.assert_array_equal(again[name][order], result[name])


def test_short_rows_and_long_words():
    """A row whose words are all too long for its share has no prediction; one of a single word of one piece has it."""
    tokens = jnp.asarray([[CLS, 7, 8, 9, 10, 11, SEP, 0], [CLS, 7, SEP, 0, 0, 0, 0, 0]])
    batch = {"tokens": tokens, "lengths": jnp.asarray([7, 3]), "weight": jnp.ones(2)}
    batch["continues"] = jnp.asarray([[False, False, True, True, True, True, False, False], [False] * 8])
    objective = Mlm(vocab_size=V, special_ids=SPECIAL, masking=Spans())
    result = corrupt(objective, keys_of(2), batch)
    assert np.asarray(result["mlm_weights"]).sum(1).tolist() == [0, 1] and result["mlm_positions"][1, 0] == 1


@pytest.mark.parametrize("fields", [{"p": 0.0}, {"p": 1.0}, {"longest": 0}])
def test_bad_distribution(fields):
    """Said when it is made."""
    with pytest.raises(ValueError, match="p is between 0 and 1, longest from 1"):
        Spans(**fields)


def test_one_way_to_choose():
    """Words and spans at once are an error."""
    with pytest.raises(ValueError, match="both whole_word and masking"):
        Mlm(vocab_size=V, special_ids=SPECIAL, masking=Spans(), whole_word=True).corrupt(keys_of(1), {})

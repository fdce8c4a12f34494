"""Masked language modelling: what is chosen, what is shown instead, and what the head makes of it."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.stats import chisquare

from bert_jax.models.bert import Bert
from bert_jax.models.encoded import Encoded
from bert_jax.nn.losses import Mean
from bert_jax.objectives.mlm import Mlm, _choose_words

PAD, UNK, CLS, SEP, MASK = range(5)
V = 60
SPECIAL = (CLS, SEP, MASK)
MLM = Mlm(vocab_size=V, special_ids=SPECIAL, max_predictions=6)


def rows(lengths, width, seed=0):
    """Rows as an instance has them: [CLS] A [SEP] B [SEP] and padding; every token of A and B in 5 ... V - 1."""
    rng = np.random.default_rng(seed)
    tokens = np.full((len(lengths), width), PAD, np.int32)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = rng.integers(5, V, length)
        row[[0, length // 2, length - 1]] = CLS, SEP, SEP
    return {
        "tokens": jnp.asarray(tokens),
        "lengths": jnp.asarray(lengths, jnp.int32),
        "weight": jnp.ones(len(lengths), jnp.float32),
        "continues": jnp.asarray(rng.random(tokens.shape) < 0.4),
    }


@functools.partial(jax.jit, static_argnums=0)
def corrupt(objective, keys, batch):
    return objective.corrupt(keys, batch)


def corrupted(objective, batch, seed=0):
    """As numpy arrays. Always 200 rows go in, the first ones again and again, so that little is compiled."""
    size = len(batch["lengths"])
    filled = {name: value[np.arange(200) % size] for name, value in batch.items()}
    result = corrupt(objective, jax.random.split(jax.random.key(seed), 200), filled)
    return {name: np.array(value[:size]) for name, value in result.items()}


# ---- how many ------------------------------------------------------------------------------------------------------


def test_prediction_counts_by_hand():
    """At least 1, 15 % rounded half to even (10: 1.5 -> 2, 30: 4.5 -> 4, where rounding up gives 5), at most the
    maximum."""
    counts = Mlm(max_predictions=20).prediction_counts(512)
    want = {0: 0, 1: 1, 3: 1, 9: 1, 10: 2, 16: 2, 17: 3, 30: 4, 50: 8, 70: 10, 128: 19, 136: 20, 137: 20, 512: 20}
    assert {n: counts[n] for n in want} == want


@pytest.mark.parametrize("maximum", [1, 20, 80])
def test_prediction_counts_are_pythons(maximum):
    """create_pretraining_data.py:369-370 for every length of BERT."""
    counts = Mlm(max_predictions=maximum).prediction_counts(512)
    assert counts.shape == (513,)
    for n in range(1, 513):
        assert counts[n] == min(maximum, max(1, round(n * 0.15))), n


# ---- which, and what is shown --------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_word", [False, True])
def test_structure_of_the_result(whole_word):
    """Positions sorted and distinct, filled up with position 0, label 0, weight 0; labels are the original tokens;
    nothing changes elsewhere; [CLS], [SEP] and padding are never chosen."""
    batch = rows([5, 12, 20, 33, 40, 3, 4] * 8, 40)
    result = corrupted(MLM.clone(whole_word=whole_word), batch)
    original = np.asarray(batch["tokens"])
    for row, length in enumerate(np.asarray(batch["lengths"])):
        used = result["mlm_weights"][row] == 1
        positions, labels = result["mlm_positions"][row], result["mlm_labels"][row]
        assert np.all(used == (np.arange(6) < used.sum()))
        assert np.all(result["mlm_weights"][row][~used] == 0)
        assert np.all(positions[~used] == 0) and np.all(labels[~used] == 0)
        count, most = used.sum(), min(6, max(1, round(0.15 * float(length))), int(length) - 3)
        assert count <= most if whole_word else count == most
        assert np.all(np.diff(positions[used]) > 0) and np.all(positions[used] < length)
        assert np.all(labels[used] == original[row, positions[used]])
        assert not set(original[row, positions[used]]) & {CLS, SEP, PAD}
        untouched = np.delete(np.arange(40), positions[used])
        assert np.all(result["tokens"][row, untouched] == original[row, untouched])
    assert set(result) == {*batch, "mlm_positions", "mlm_labels", "mlm_weights"}
    assert result["tokens"].dtype == result["mlm_labels"].dtype == result["mlm_positions"].dtype == np.int32


@pytest.fixture(scope="module")
def many():
    """20,000 rows of one text of 33 tokens, 5 predicted in each: 100,000 predictions."""
    batch = {name: value[np.zeros(200, int)] for name, value in rows([33], 40).items()}
    parts = [corrupted(MLM, batch, seed) for seed in range(100)]
    return np.asarray(batch["tokens"][0]), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_every_candidate_is_as_likely(many):
    """Chi-square over the 30 candidates. Positions of a row are drawn without replacement, which only narrows it; so
    pairs of them are tested, too, and these are independent between rows."""
    tokens, result = many
    positions = result["mlm_positions"][:, :5]
    candidates = np.nonzero((tokens >= 5)[:33])[0]
    counts = np.bincount(positions.ravel(), minlength=40)
    assert counts.sum() == counts[candidates].sum() == 100000
    assert chisquare(counts[candidates]).pvalue > 1e-3
    index = np.searchsorted(candidates, positions)
    pairs = np.bincount(index[:, 0] * 30 + index[:, -1], minlength=900).reshape(30, 30)
    # The smallest is i and the largest j in comb(j - i - 1, 3) of the comb(30, 5) equally likely sets.
    first, last = np.nonzero(np.subtract.outer(np.arange(30), np.arange(30)).T >= 10)
    want = np.array([math.comb(j - i - 1, 3) for i, j in zip(first, last, strict=True)]) / math.comb(30, 5) * 20000
    got, rest = pairs[first, last], 20000 - pairs[first, last].sum()
    assert chisquare([*got, rest], [*want, 20000 - want.sum()]).pvalue > 1e-3


def test_80_10_10(many):
    """Chi-square on [MASK], random and kept, where a random draw gives [MASK] or the original in 1 of V cases each."""
    tokens, result = many
    positions = result["mlm_positions"][:, :5]
    shown = np.take_along_axis(result["tokens"], positions, axis=1)
    mask, kept = (shown == MASK).sum(), (shown == tokens[positions]).sum()
    want = np.array([0.8 + 0.1 / V, 0.1 + 0.1 / V, 0.1 * (1 - 2 / V)]) * shown.size
    assert chisquare([mask, kept, shown.size - mask - kept], want).pvalue > 1e-3


def test_coins_of_a_row_are_independent(many):
    """The number of [MASK] in a row is binomial: neither one coin a row nor a fixed share."""
    _, result = many
    shown = np.take_along_axis(result["tokens"], result["mlm_positions"][:, :5], axis=1)
    counts, p = np.bincount((shown == MASK).sum(1), minlength=6), 0.8 + 0.1 / V
    want = np.array([math.comb(5, k) * p**k * (1 - p) ** (5 - k) for k in range(6)]) * 20000
    assert chisquare([counts[:2].sum(), *counts[2:]], [want[:2].sum(), *want[2:]]).pvalue > 1e-3


def test_random_tokens_are_of_the_whole_vocabulary(many):
    """Uniform, [PAD], [CLS] and unused ones included (create_pretraining_data.py:401)."""
    tokens, result = many
    positions = result["mlm_positions"][:, :5]
    shown, original = np.take_along_axis(result["tokens"], positions, axis=1), tokens[positions]
    replaced = shown[(shown != MASK) & (shown != original)]
    counts = np.bincount(replaced, minlength=V)
    # An id that is one of the text's candidates is indistinguishable from "kept" there.
    share = 1 - np.bincount(tokens[(tokens >= 5) & (np.arange(40) < 33)], minlength=V) / 30
    ids = np.delete(np.arange(V), MASK)
    assert counts.size == V and np.all(counts[ids] > 0)
    assert chisquare(counts[ids], share[ids] / share[ids].sum() * counts.sum()).pvalue > 1e-3


def test_shares_are_options():
    """Half of the chosen shown as a random token, half kept, none masked on purpose: four standard deviations."""
    batch = rows([40] * 200, 40)
    result = corrupted(MLM.clone(mask_share=0.0, random_share=0.5), batch)
    shown = np.take_along_axis(result["tokens"], result["mlm_positions"], axis=1)
    assert shown.shape == (200, 6)
    kept, p = (shown == result["mlm_labels"]).sum(), 0.5 + 0.5 / V
    assert abs(kept - 1200 * p) < 4 * math.sqrt(1200 * p * (1 - p))
    assert (shown == MASK).mean() < 0.05


@pytest.mark.parametrize("whole_word", [False, True])
def test_a_row_depends_on_its_own_key_only(whole_word):
    """In another order, among other rows, each example is corrupted as before."""
    objective, batch = MLM.clone(whole_word=whole_word), rows([40, 7, 22, 31, 12] * 40, 40)
    keys = jax.random.split(jax.random.key(5), 200)
    before, order = corrupt(objective, keys, batch), np.random.default_rng(0).integers(0, 200, 200)
    after = corrupt(objective, keys[order], {name: value[order] for name, value in batch.items()})
    for name, value in after.items():
        np.testing.assert_array_equal(value, before[name][order], err_msg=name)


# ---- whole words ---------------------------------------------------------------------------------------------------


def words_of(candidate, continues):
    """Groups of positions (lines 346-365)."""
    words = []
    for at in np.nonzero(candidate)[0]:
        if words and continues[at]:
            words[-1].append(at)
        else:
            words.append([at])
    return words


def choose_in_order(words, count):
    """The skip rule (lines 372-380): a word that would exceed the count is passed over, and the next is tried."""
    chosen = []
    for word in words:
        if len(chosen) < count and len(chosen) + len(word) <= count:
            chosen += word
    return sorted(chosen)


def test_whole_words_follow_the_loop_of_the_original():
    """Fed with the same order of words, 300 random rows give the same positions."""
    rng = np.random.default_rng(0)
    length = 24
    candidate = (rng.random((300, length)) < 0.9) & (np.arange(length) < rng.integers(0, length + 1, (300, 1)))
    continues = rng.random((300, length)) < rng.random((300, 1))
    score, count = rng.random((300, length)).astype(np.float32), rng.integers(0, 9, 300).astype(np.int32)
    got = np.asarray(jax.jit(_choose_words)(*map(jnp.asarray, (score, candidate, continues, count))))
    for row in range(300):
        words = words_of(candidate[row], continues[row])
        order = np.argsort(score[row][: len(words)])
        want = choose_in_order([words[i] for i in order], count[row])
        assert list(np.nonzero(got[row])[0]) == want, row


def test_whole_words_by_hand():
    """Rows of 13 tokens have two predictions. [CLS] x ##x ... [SEP] ##s it [SEP], where "##s" joins the first word
    across the [SEP], as in the original: the word of nine pieces never fits, so "it" is predicted alone. [CLS] a
    ##a [SEP] b ##b ... [SEP]: the word of two pieces is always predicted."""
    batch = rows([13, 13] * 10, 40)
    tokens, continues = np.array(batch["tokens"]), np.zeros((20, 40), bool)
    tokens[:, 1:12] = 10
    tokens[::2, 9] = tokens[1::2, 3] = SEP
    continues[::2, [2, 3, 4, 5, 6, 7, 8, 10]] = True
    continues[1::2, [2, 5, 6, 7, 8, 9, 10, 11]] = True
    batch |= {"tokens": jnp.asarray(tokens), "continues": jnp.asarray(continues)}
    result = corrupted(MLM.clone(whole_word=True), batch)
    np.testing.assert_array_equal(result["mlm_positions"], [[11, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]] * 10)
    np.testing.assert_array_equal(result["mlm_weights"], [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]] * 10)


def test_whole_words_are_taken_whole_and_nothing_fits_besides():
    """Through `corrupt`: all pieces of a word or none, never more than the count, and no word left that would still
    fit."""
    batch = rows([40, 33, 20, 26] * 50, 40)
    result = corrupted(MLM.clone(whole_word=True), batch)
    tokens = np.asarray(batch["tokens"])
    for row, length in enumerate(np.asarray(batch["lengths"])):
        chosen = set(result["mlm_positions"][row][result["mlm_weights"][row] > 0])
        candidate = (tokens[row] >= 5) & (np.arange(40) < length)
        words = words_of(candidate, np.asarray(batch["continues"][row]))
        assert all(chosen.issuperset(word) or chosen.isdisjoint(word) for word in words)
        left = min(6, round(0.15 * float(length))) - len(chosen)
        assert left >= 0
        assert left < min(len(word) for word in words if chosen.isdisjoint(word))


def test_pieces_of_a_word_have_coins_of_their_own():
    """create_pretraining_data.py:391-401: a word can be half [MASK], half shown."""
    batch = rows([40] * 200, 40)
    result = corrupted(MLM.clone(whole_word=True), batch | {"continues": jnp.tile(jnp.arange(40) % 2 == 0, (200, 1))})
    shown = np.take_along_axis(result["tokens"], result["mlm_positions"], axis=1) == MASK
    assert np.any(shown[:, 0] != shown[:, 1])


# ---- head and loss -------------------------------------------------------------------------------------------------

D = 8


def encoded(batch_size, length, seed=0):
    """Random hidden states and table."""
    rng = np.random.default_rng(seed)
    hidden, table = rng.normal(size=(batch_size, length, D)), rng.normal(size=(V, D))
    return Encoded(jnp.asarray(hidden, jnp.float32), None, jnp.asarray(table, jnp.float32), {})


def head_params(seed=1):
    """Of the head, far from their initial values."""
    rng = np.random.default_rng(seed)
    shapes = {"transform": {"kernel": (D, D), "bias": (D,)}, "norm": {"scale": (D,), "bias": (D,)}, "bias": (V,)}
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda shape: isinstance(shape, tuple))


@jax.jit
def metrics(params, encoded, batch):
    return MLM.apply({"params": params}, encoded, batch, False)


LENGTHS = [40, 17, 9, 40, 5, 8, 38, 3]


def test_head_by_hand():
    """Dense, tanh GELU, layer norm, the table transposed, a bias; log softmax at the labels, in float64."""
    batch, states, params = corrupted(MLM, rows(LENGTHS, 40)), encoded(8, 40), head_params()
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    losses, right = [], []
    for row, slot in zip(*np.nonzero(batch["mlm_weights"]), strict=True):
        x = np.asarray(states.hidden, np.float64)[row, batch["mlm_positions"][row, slot]]
        x = x @ p["transform"]["kernel"] + p["transform"]["bias"]
        x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        x = (x - x.mean()) / x.std() * p["norm"]["scale"] + p["norm"]["bias"]
        logits = np.asarray(states.table, np.float64) @ x + p["bias"]
        if slot == 0:  # a hit in each row
            batch["mlm_labels"][row, slot] = logits.argmax()
        label = batch["mlm_labels"][row, slot]
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
        right.append(logits.argmax() == label)
    got = metrics(params, states, jax.tree.map(jnp.asarray, batch))
    np.testing.assert_allclose(got["loss"].value, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(got["loss"].total, np.sum(losses), rtol=1e-5)
    assert (
        got["accuracy"] == (sum(right), len(right)) and len(right) == 6 + 3 + 1 + 6 + 1 + 1 + 6
    )  # [CLS] [SEP] [SEP] has no candidate


def test_parameters_of_the_head():
    """Their names and shapes (nothing for the tied decoder but its bias) and initial values: `bias` and `norm` in the
    path keep biases and scales from weight decay."""
    batch = jax.tree.map(jnp.asarray, corrupted(MLM, rows([9], 40)))
    params = nn.unbox(MLM.init(jax.random.key(0), encoded(1, 40), batch, False))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, head_params())
    assert not np.any(params["bias"]) and not np.any(params["transform"]["bias"])
    assert 0 < np.abs(params["transform"]["kernel"]).max() <= 0.04


def test_only_chosen_positions_meet_the_vocabulary():
    """No array of B x L x V numbers: that is what gathering before the transform saves."""
    batch = jax.tree.map(jnp.asarray, corrupted(MLM, rows([40, 30], 40)))
    program = str(jax.make_jaxpr(lambda p, e: MLM.apply({"params": p}, e, batch, True))(head_params(), encoded(2, 40)))
    assert f"[2,6,{V}]" in program and f"[2,40,{V}]" not in program


def test_filler_rows_count_for_nothing():
    """Whatever stands in rows of weight 0: the same loss and gradients, and none of them counted."""
    batch, states = rows(LENGTHS, 40), encoded(8, 40)
    batch["weight"] = jnp.array([1.0, 1, 1, 1, 0, 0, 0, 0])
    batch = jax.tree.map(jnp.asarray, corrupted(MLM, batch))
    assert batch["mlm_weights"].sum() == 6 + 3 + 1 + 6
    run = jax.jit(jax.value_and_grad(lambda p, e, b: metrics(p, e, b)["loss"].value))
    changed = batch | {"mlm_labels": batch["mlm_labels"].at[4:].set(9)}
    got = run(head_params(), states._replace(hidden=states.hidden.at[4:].multiply(-3)), changed)
    jax.tree.map(np.testing.assert_array_equal, got, run(head_params(), states, batch))


def test_the_denominator_is_that_of_the_global_batch():
    """8 rows with unequal numbers of predictions: the sums of two halves, of one batch, and of one batch split over 8
    devices are the same, and the mean of the halves' means is not."""
    batch = jax.tree.map(jnp.asarray, corrupted(MLM, rows(LENGTHS, 40)))
    states, params = encoded(8, 40), head_params()
    whole = metrics(params, states, batch)["loss"]
    halves = [
        metrics(params, states._replace(hidden=states.hidden[cut]), {k: v[cut] for k, v in batch.items()})["loss"]
        for cut in (slice(0, 4), slice(4, 8))
    ]
    added = Mean(*map(sum, zip(*halves, strict=True)))
    assert added.count == whole.count
    np.testing.assert_allclose(added.value, whole.value, rtol=1e-6)
    assert abs(halves[0].value + halves[1].value - 2 * whole.value) > 0.01
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows_split = NamedSharding(mesh, PartitionSpec("data"))
    spread = states._replace(hidden=jax.device_put(states.hidden, rows_split))
    split = metrics(params, spread, jax.device_put(batch, rows_split))["loss"]
    assert split.count == whole.count
    np.testing.assert_allclose(split.value, whole.value, rtol=1e-6)


def test_the_tied_table_learns_from_both_uses():
    """Its gradient is that of the decoder, which reaches every row, plus that of the look-up, which reaches the rows
    of the tokens shown and not that of padding."""
    encoder = Bert(vocab_size=V, num_layers=1, width=D, num_heads=2, mlp_width=8, max_length=40, pooler=False)
    batch = jax.tree.map(jnp.asarray, corrupted(MLM, rows([12, 9], 40)))
    shapes = nn.unbox(jax.eval_shape(encoder.init, jax.random.key(0), batch))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(params, added):
        states = encoder.apply({"params": params}, batch)
        states = states._replace(table=states.table + added)
        return MLM.apply({"params": head_params()}, states, batch, True)["loss"].value

    both, decoder = gradients(params, jnp.zeros((V, D)))
    looked_up = np.asarray(both["embeddings"]["words"]["table"] - decoder)
    shown = np.unique(np.asarray(batch["tokens"])[np.arange(40) < batch["lengths"][:, None]])
    assert np.all(np.any(abs(decoder) > 1e-6, axis=1))
    assert np.all(np.any(abs(looked_up[shown]) > 1e-6, axis=1))
    assert np.all(abs(np.delete(looked_up, shown, axis=0)) < 1e-6)


def test_another_vocabulary_is_refused():
    """Numbers that contradict the tokenizer's; absent ones are taken from it."""
    assert Mlm().for_vocabulary(V, SPECIAL).vocab_size == V
    assert MLM.for_vocabulary(V, SPECIAL) == MLM
    with pytest.raises(ValueError, match=rf"vocab_size {V}.*tokenizer has {V + 1}"):
        MLM.for_vocabulary(V + 1, SPECIAL)
    with pytest.raises(ValueError, match="special_ids"):
        MLM.for_vocabulary(V, (7, 8, 9))

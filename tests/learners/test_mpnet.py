"""MPNet's learner: what is permuted and predicted, what stands in for it, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.learners.mpnet import MaskedPermuted, last_of
from bert_jax.models.bert import Bert
from bert_jax.models.mpnet import Mpnet
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.ngrams import Ngrams
from bert_jax.objectives.nsp import Nsp

V, MASK = 30, 4
ENCODER = Mpnet(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=20, scan=True)
KEY = jax.random.key(0)


def learner(**fields):
    mlm = Mlm(**{"max_predictions": 8, "rate": 0.4, "activation": "gelu"} | fields)
    return MaskedPermuted(ENCODER, {"mlm": mlm}).for_vocabulary(V, (2, 3, MASK))


def batch_of(lengths, length=20, seed=0):
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    return {
        "tokens": jnp.asarray(rng.integers(5, V, (rows, length)), jnp.int32),
        "lengths": jnp.asarray(lengths, jnp.int32),
        "continues": jnp.asarray(rng.random((rows, length)) < 0.4),
        "example": jnp.asarray(rng.permutation(100_000)[:rows], jnp.uint32),
        "weight": jnp.ones(rows, jnp.float32),
    }


def corrupted(own, batch, key=KEY, step=0):
    return jax.tree.map(np.asarray, jax.jit(own.corrupt)(key, step, batch))


def test_the_last_of_a_permutation_by_hand():
    """Words sorted by their score, their tokens in order, padding before all; the word at the cut keeps its last
    tokens, and a row of one token each is sorted by its tokens' scores."""
    score = jnp.array([[0.5, 0.9, 0.1, 0.7, 0.0, 0.0], [0.3, 0.1, 0.2, 0.9, 0.9, 0.9]])
    continues = jnp.array([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]], bool)
    # Words of the first row: 01, 234, 5, in the order 5, 01, 234.
    for count, wanted in enumerate(["000000", "000010", "000110", "001110", "011110", "111110", "111111"]):
        found = last_of(score, continues, jnp.array([6, 3]), jnp.array([count, min(count, 3)]))
        assert "".join(map(str, found[0].astype(int))) == wanted
        in_second = ["000000", "100000", "101000", "111000"][min(count, 3)]
        assert "".join(map(str, found[1].astype(int))) == in_second


@pytest.mark.parametrize("whole_word", [False, True])
def test_structure_of_the_result(whole_word):
    """Tokens stay; as many are predicted as the masked LM would, all different, none of them padding; labels are the
    tokens there; what fills up has no weight. Of whole words all but one are predicted as a whole."""
    lengths = [20, 13, 5, 2, 1] * 40
    batch = batch_of(lengths)
    found = corrupted(learner(whole_word=whole_word), batch)
    np.testing.assert_array_equal(found["tokens"], batch["tokens"])
    assert set(found) == {*batch, "mlm_positions", "mlm_labels", "mlm_weights", "mlm_shown"}
    cut = 0
    for row, length in enumerate(lengths):
        count = min(8, max(1, round(length * 0.4)))
        assert found["mlm_weights"][row].tolist() == [1.0] * count + [0.0] * (8 - count)
        positions = found["mlm_positions"][row]
        assert (
            len(set(positions[:count])) == count and (positions[:count] < length).all() and not positions[count:].any()
        )
        np.testing.assert_array_equal(found["mlm_labels"][row, :count], found["tokens"][row, positions[:count]])
        if whole_word:
            words = np.maximum(np.cumsum(~found["continues"][row, :length]) - 1, 0)
            own = words[positions[:count]]
            partial = [word for word in set(own) if (own == word).sum() < (words == word).sum()]
            assert len(partial) <= 1
            cut += len(partial)
    assert not whole_word or cut > 20
    later = corrupted(learner(), batch_of([20] * 300))["mlm_positions"]
    assert 0.4 < np.mean(np.diff(later, axis=1) > 0) < 0.6  # in no order of the row


def test_every_token_is_as_likely():
    """The first and the last of a row as any other, within four standard deviations; so is what each of them is shown
    as: the mask, a random token, itself."""
    batch = batch_of([20] * 5000)
    found = corrupted(learner(), batch)
    share = np.bincount(found["mlm_positions"].reshape(-1), minlength=20) / 5000
    np.testing.assert_allclose(share, 0.4, atol=4 * np.sqrt(0.24 / 5000))
    first = np.bincount(found["mlm_positions"][:, 0], minlength=20) / 5000
    np.testing.assert_allclose(first, 0.05, atol=4 * np.sqrt(0.0475 / 5000))
    masked, kept = found["mlm_shown"] == MASK, found["mlm_shown"] == found["mlm_labels"]
    np.testing.assert_allclose(masked.mean(0), 0.8 + 0.1 / V, atol=4 * np.sqrt(0.16 / 5000))
    np.testing.assert_allclose(kept.mean(0), 0.1 + 0.1 / V, atol=4 * np.sqrt(0.09 / 5000))
    random = found["mlm_shown"][~masked & ~kept]
    assert set(random) == set(range(V)) - {MASK}


def test_a_function_of_key_step_and_example():
    """Neither of the place in the batch nor of what stands beside; another at another visit, unless it is static."""
    batch = batch_of([20, 13, 5, 17])
    found = corrupted(learner(), batch)
    turned = {name: value[::-1] for name, value in batch.items()}
    names = ("mlm_positions", "mlm_shown", "mlm_weights")
    for name in names:
        np.testing.assert_array_equal(corrupted(learner(), turned)[name][::-1], found[name])
        assert not np.array_equal(corrupted(learner(), batch, step=1)["mlm_positions"], found["mlm_positions"])
    wide = {name: jnp.pad(x, ((0, 0), (0, 4))) if x.ndim == 2 else x for name, x in batch.items()}
    for name in names:
        np.testing.assert_array_equal(corrupted(learner(), wide)[name], found[name])
    static = [corrupted(learner(static=True), batch, step=step)["mlm_positions"] for step in (0, 1)]
    np.testing.assert_array_equal(*static)


def test_what_counts():
    """The loss is the mean over all that is predicted; a row of weight 0 has no share in it; a plan for packed rows
    changes nothing."""
    own = learner()
    batch = jax.jit(own.corrupt)(KEY, 0, batch_of([20, 13, 5, 17]) | {"weight": jnp.array([1.0, 1, 0, 1])})
    params = nn.unbox(jax.jit(own.init)(KEY, batch))
    apply = jax.jit(lambda batch: own.apply(params, batch))
    metrics = apply(batch)
    assert set(metrics) == {"mlm/loss", "mlm/accuracy"}
    assert float(metrics["mlm/loss"].count) == 8 + 5 + 7
    np.testing.assert_allclose(metrics["mlm/loss"].value, np.log(V), rtol=0.05)
    other = apply(batch | {"tokens": batch["tokens"].at[2].set(9), "mlm_labels": batch["mlm_labels"].at[2].set(9)})
    assert other["mlm/loss"].total == metrics["mlm/loss"].total
    assert apply(batch | {"packing": jnp.zeros((1, 1, 20), jnp.int32)})["mlm/loss"].total == metrics["mlm/loss"].total
    assert own.predict(batch) == {}


@pytest.mark.parametrize(
    ("encoder", "objectives", "message"),
    [
        (ENCODER, {"mlm": Mlm(), "nsp": Nsp()}, "one objective, an Mlm called 'mlm', and not mlm, nsp"),
        (ENCODER, {"mlm": Mlm(masking=Ngrams())}, "the Mlm has masking"),
        (Bert(), {"mlm": Mlm()}, "the encoder is a Bert, and only Mpnet has two streams"),
    ],
)
def test_what_is_refused(encoder, objectives, message):
    """Before anything is compiled."""
    with pytest.raises(ValueError, match=message):
        MaskedPermuted(encoder, objectives).for_vocabulary(V, (2, 3, MASK))

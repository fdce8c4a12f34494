"""The pure functions of a run: what they are functions of, and what a step does to the state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.nn.losses import Mean
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape, Together
from bert_jax.training.step import make_evaluate_step, make_init, make_train_step, state_shardings

V, B, L = 40, 8, 16
LEARNER = Multitask(
    Bert(vocab_size=V, num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=L),
    {"mlm": Mlm(vocab_size=V, special_ids=(2, 3, 4), max_predictions=3), "nsp": Nsp(), "classify": Classify(2)},
)
OPTIMIZER = BertAdam(learning_rate=1e-2, warmup=2).build(10)


def batch_of(seed=0, weight=None):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(L // 2, L + 1, B).astype(np.int32)
    tokens = np.where(np.arange(L) < lengths[:, None], rng.integers(5, V, (B, L)), 0).astype(np.int32)
    tokens[:, 0] = 2
    return {
        "tokens": tokens,
        "segments": np.zeros((B, L), np.int32),
        "lengths": lengths,
        "example": rng.permutation(1000)[:B].astype(np.uint32),
        "weight": np.ones(B, np.float32) if weight is None else np.array(weight, np.float32),
        "pair_label": rng.integers(0, 2, B).astype(np.int32),
        "label": rng.integers(0, 2, B).astype(np.int32),
    }


@pytest.fixture(scope="module")
def functions():
    """`init`, `train`, `evaluate` over all devices of this process; `train` copies the state, which it would donate."""
    mesh = MeshShape().build()
    shardings = state_shardings(LEARNER, OPTIMIZER, batch_of(), mesh)
    step, rows = make_train_step(LEARNER, OPTIMIZER, shardings, Together(mesh)), Together(mesh).batch

    def train(state, batch):
        return step(jax.tree.map(jnp.copy, state), jax.device_put(batch, rows))

    evaluate_step = make_evaluate_step(LEARNER, shardings.params, Together(mesh))

    def evaluate(params, seed, batch):
        return jax.device_get(evaluate_step(params, np.uint32(seed), jax.device_put(batch, rows)))

    return make_init(LEARNER, OPTIMIZER, shardings, Together(mesh)), train, evaluate


@pytest.fixture(scope="module")
def state(functions):
    return functions[0](np.uint32(0), batch_of())


def same(a, b):
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_initial_state_is_a_function_of_the_seed(functions, state):
    """Not of the batch that gives the shapes; another seed gives other weights; moments and counts start at zero."""
    init = functions[0]
    assert same(init(np.uint32(0), batch_of(seed=9)), state)
    other = init(np.uint32(2**32 - 1), batch_of())
    assert not same(other.params["encoder"]["embeddings"], state.params["encoder"]["embeddings"])
    assert state.step == 0 and state.seed == 0 and int(other.seed) == 2**32 - 1
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}


def test_a_step_changes_every_parameter_and_counts(functions, state):
    """From the second update on: the first one has learning rate 0, as the original's (optimization.py:76-83)."""
    _, train, _ = functions
    first, (metrics, scalars) = train(state, batch_of())
    assert first.step == 1 and same(first.params, state.params)
    assert not same(first.opt_state, state.opt_state)
    second, _ = train(first, batch_of())
    assert second.step == 2 and second.seed == state.seed
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), first.params, second.params)
    assert all(jax.tree.leaves(changed)), changed
    names = {f"{name}/{kind}" for name in ("mlm", "nsp", "classify") for kind in ("loss", "accuracy")}
    assert set(metrics) == names and set(scalars) == {"loss", "gradient_norm", "tokens", "skipped"}
    losses = sum(float(metrics[f"{name}/loss"].value) for name in ("mlm", "nsp", "classify"))
    assert float(scalars["loss"]) == pytest.approx(losses, rel=1e-6)


def test_the_same_step_twice_is_the_same(functions, state):
    """Masks and dropout included: nothing is drawn but from the state and the batch."""
    _, train, _ = functions
    assert same(train(state, batch_of()), train(state, batch_of()))


class Probe(nn.Module):
    """A learner whose metrics are the random numbers it is given."""

    def corrupt(self, key, step, batch):
        return dict(batch) | {"drawn": jax.random.uniform(jax.random.fold_in(key, step))}

    @nn.compact
    def __call__(self, batch, train=False):
        one = self.param("kernel", nn.with_logical_partitioning(nn.initializers.ones, ("D",)), (1,))[0]
        dropout = jax.random.uniform(self.make_rng("dropout")) if train else jnp.float32(-1)
        return {"corruption": Mean(batch["drawn"] + 0 * one, jnp.float32(1)), "dropout": Mean(dropout, jnp.float32(1))}

    def loss_of(self, metrics):
        return metrics["corruption"].value

    def predict(self, batch):
        return {}


def test_random_numbers_are_a_function_of_seed_and_step():
    """Of corruption and of dropout: others at every step and for every seed; evaluation always has the same."""
    mesh, probe = MeshShape().build(), Probe()
    batch = {"lengths": np.ones(8, np.int32), "weight": np.ones(8, np.float32)}
    shardings = state_shardings(probe, OPTIMIZER, batch, mesh)
    together = Together(mesh)
    init = make_init(probe, OPTIMIZER, shardings, together)
    step = make_train_step(probe, OPTIMIZER, shardings, together)
    evaluate = make_evaluate_step(probe, shardings.params, Together(mesh))
    drawn = []
    for seed in (0, 1):
        for _ in range(2):  # the second time all is the same
            state = init(np.uint32(seed), batch)
            for i in range(3):
                state, (metrics, _) = step(state, batch)
                drawn.append(((seed, i), float(metrics["corruption"].total), float(metrics["dropout"].total)))
        metrics, _ = evaluate(state.params, np.uint32(seed), batch)
        assert metrics["dropout"].total == -1
        drawn.append(((seed, "evaluation"), float(metrics["corruption"].total), float(seed)))
    values = {}
    for at, corruption, dropout in drawn:
        assert values.setdefault(at, (corruption, dropout)) == (corruption, dropout)
    assert len({value for pair in values.values() for value in pair}) == 2 * len(values)


def test_corruption_goes_with_the_example(functions, state):
    """Evaluation, which has no dropout: the order of the rows does not matter, the number of the example does."""
    _, _, evaluate = functions
    batch, order = batch_of(), np.random.default_rng(1).permutation(B)
    shuffled = {name: array[order] for name, array in batch.items()}
    metrics, predictions = evaluate(state.params, 0, batch)
    other, moved = evaluate(state.params, 0, shuffled)
    for name in metrics:  # sums in another order: float32 within some units in the last place
        np.testing.assert_allclose(other[name].total, metrics[name].total, rtol=1e-6)
    np.testing.assert_allclose(moved["classify/probabilities"], predictions["classify/probabilities"][order], rtol=1e-6)
    renumbered, _ = evaluate(state.params, 0, batch | {"example": batch["example"] + np.uint32(1)})
    assert renumbered["mlm/loss"].total != pytest.approx(float(metrics["mlm/loss"].total), rel=1e-4)


def test_evaluation_is_deterministic_and_without_dropout(functions, state):
    """Twice the same, at any step; classification, which is not corrupted, does not depend on the seed either."""
    _, _, evaluate = functions
    metrics, predictions = evaluate(state.params, 0, batch_of())
    assert same(evaluate(state.params, 0, batch_of()), (metrics, predictions))
    other, _ = evaluate(state.params, 1, batch_of())
    assert other["mlm/loss"].total != metrics["mlm/loss"].total  # masked by the seed
    probabilities = predictions["classify/probabilities"]
    assert probabilities.shape == (B, 2) and np.allclose(probabilities.sum(1), 1)


def test_predictions_see_what_is_not_corrupted(functions, state):
    """A prediction is about the input as it is: the seed, which decides what is masked, does not matter."""
    _, _, evaluate = functions
    assert same(evaluate(state.params, 0, batch_of())[1], evaluate(state.params, 1, batch_of())[1])


def test_filler_rows_count_nothing(functions, state):
    """Rows of weight 0 change no metric and no gradient, and their tokens are not counted."""
    _, train, evaluate = functions
    weight = [1] * 5 + [0] * 3
    garbage = batch_of(seed=5, weight=weight)
    batch = batch_of(weight=weight)
    for name in ("tokens", "lengths", "example", "label", "pair_label"):
        garbage[name][:5] = batch[name][:5]
    for run in (lambda b: evaluate(state.params, 0, b)[0], lambda b: train(state, b)[1]):
        for a, b in zip(jax.tree.leaves(run(batch)), jax.tree.leaves(run(garbage)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    _, (metrics, scalars) = train(state, batch)
    assert metrics["nsp/loss"].count == 5 and scalars["tokens"] == batch["lengths"][:5].sum()


def rows_that_give(value):
    """A batch with a token that the table does not have, which gives NaN, or without."""
    batch = batch_of()
    batch["tokens"][3, 1] = value
    return batch


def test_a_step_that_is_not_finite_changes_nothing(functions, state):
    """Parameters and optimizer state stay as they were, to the bit, and only the step goes on, to another batch; the
    next good one trains as if there had been none between."""
    _, train, _ = functions
    once, _ = train(state, batch_of())
    skipped, (metrics, scalars) = train(once, rows_that_give(V))
    assert scalars["skipped"] and not np.isfinite(scalars["loss"]) and not np.isfinite(metrics["mlm/loss"].total)
    assert skipped.step == 2 and same((skipped.params, skipped.opt_state), (once.params, once.opt_state))
    after, (_, scalars) = train(skipped, batch_of())
    straight, _ = train(once.replace(step=jnp.int32(2)), batch_of())
    assert not scalars["skipped"] and same(after, straight) and not same(after.params, once.params)


class Steep(Probe):
    """The root of 0: a finite loss, and an infinite gradient."""

    @nn.compact
    def __call__(self, batch, train=False):
        one = self.param("kernel", nn.with_logical_partitioning(nn.initializers.zeros, ("D",)), (1,))[0]
        return {"corruption": Mean(jnp.sqrt(jnp.abs(one)), jnp.float32(1))}


def test_a_gradient_that_is_not_finite_counts_as_such():
    """Whatever the loss is."""
    together = Together(MeshShape().build())
    batch = {"lengths": np.ones(8, np.int32), "weight": np.ones(8, np.float32)}
    shardings = state_shardings(Steep(), OPTIMIZER, batch, together.mesh)
    state = make_init(Steep(), OPTIMIZER, shardings, together)(np.uint32(0), batch)
    after, (_, scalars) = make_train_step(Steep(), OPTIMIZER, shardings, together)(state, batch)
    assert scalars["loss"] == 0 and scalars["skipped"] and after.params["kernel"][0] == 0 and after.step == 1

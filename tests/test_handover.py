"""What a run takes over from an earlier one: moments by name, and rows for positions that it did not have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.experiment import Experiment
from bert_jax.handover import extend_positions, saved_moments, with_moments
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import Pretrained
from bert_jax.resolve import resolve
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import train
from bert_jax.training.checkpoint import Checkpoints, restore_params, restore_part
from bert_jax.training.lamb import Lamb
from bert_jax.training.optim import BertAdam

pytestmark = pytest.mark.xdist_group("handover")  # the fixtures are runs: made once, in one process

TABLE = np.arange(12, dtype=np.float32).reshape(3, 4)
PARAMS = {"encoder": {"embeddings": {"positions": {"table": TABLE}, "words": {"table": np.ones((5, 4))}}, "layers": {}}}


def positions(params):
    return np.asarray(params["encoder"]["embeddings"]["positions"]["table"])


def test_copied_positions_repeat_from_the_first():
    """Row 3 is row 0 again; nothing else is touched, and what was given stays as it was."""
    longer = extend_positions(PARAMS, 8, "copied", 0.02, seed=1)
    np.testing.assert_array_equal(positions(longer), TABLE[[0, 1, 2, 0, 1, 2, 0, 1]])
    assert longer["encoder"]["embeddings"]["words"] is PARAMS["encoder"]["embeddings"]["words"]
    assert positions(PARAMS) is TABLE and len(TABLE) == 3
    np.testing.assert_array_equal(positions(extend_positions(PARAMS, 3, "copied", 0.02, seed=1)), TABLE)


def test_new_positions_come_from_the_initialiser():
    """The old rows stay; new ones are the truncated normal's, other ones for another seed, the same for the same."""
    longer = positions(extend_positions(PARAMS, 500, "new", 0.02, seed=1))
    np.testing.assert_array_equal(longer[:3], TABLE)
    assert np.abs(longer[3:]).max() <= 0.04 and longer[3:].std() == pytest.approx(0.0176, rel=0.1)
    np.testing.assert_array_equal(longer, positions(extend_positions(PARAMS, 500, "new", 0.02, seed=1)))
    assert (longer[3:] != positions(extend_positions(PARAMS, 500, "new", 0.02, seed=2))[3:]).any()


def adam_of(state):
    (found,) = (s for s in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(s))
    return found


def is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)


@pytest.mark.parametrize(
    "optimizer", [BertAdam(), Lamb(), BertAdam(moments_dtype="bfloat16"), BertAdam(layer_decay=0.9)]
)
def test_moments_go_to_what_has_their_name(optimizer):
    """Into any optimizer of the project: moments by name and the count; a new head's stay 0, further positions' too,
    and the schedule's own counter stays at the beginning."""
    params = {"encoder": {"positions": jnp.ones((4, 2)), "kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones(2)}}
    old = {"encoder": {"positions": np.full((3, 2), 2.0), "kernel": np.full((2, 2), 3.0)}, "gone": np.ones(7)}
    moments = {"mu": old, "nu": jax.tree.map(np.square, old), "count": np.int32(17)}
    state = optimizer.build(10).init(params)
    kept = with_moments(state, moments)
    adam = adam_of(kept)
    assert int(adam.count) == 17
    np.testing.assert_array_equal(adam.mu["encoder"]["positions"], [[2, 2], [2, 2], [2, 2], [0, 0]])
    np.testing.assert_array_equal(adam.nu["encoder"]["kernel"], np.full((2, 2), 9.0))
    np.testing.assert_array_equal(adam.mu["head"]["kernel"], np.zeros(2))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), kept) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    others = [s.count for s in jax.tree.leaves(kept, is_leaf=is_schedule) if is_schedule(s)]
    assert [int(count) for count in others] == [0]


def is_schedule(node):
    return isinstance(node, optax.ScaleByScheduleState)


def test_moments_of_several_runs_are_the_same():
    """State with a leading axis of runs: each has what the one earlier run had."""
    params = {"encoder": {"kernel": jnp.ones((2, 3))}}
    state = jax.vmap(BertAdam().build(10).init)(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params))
    old = {"encoder": {"kernel": np.arange(6.0).reshape(2, 3)}}
    adam = adam_of(with_moments(state, {"mu": old, "nu": old, "count": np.int32(5)}))
    np.testing.assert_array_equal(adam.mu["encoder"]["kernel"], [old["encoder"]["kernel"]] * 2)
    np.testing.assert_array_equal(adam.count, [5, 5])


def test_moments_that_do_not_fit():
    """Another shape is refused with both, and so is an optimizer that has nothing in common."""
    state = BertAdam().build(10).init({"kernel": jnp.ones((2, 3))})
    for shape in ((2, 4), (3, 3)):
        wrong = {"kernel": np.ones(shape)}
        with pytest.raises(ValueError, match=r"a moment of kernel \(\d, \d\), here it is \(2, 3\)"):
            with_moments(state, {"mu": wrong, "nu": wrong, "count": np.int32(1)})
    with pytest.raises(ValueError, match="no moment of the optimizer to take over is of a parameter"):
        with_moments(state, {"mu": {"other": np.ones(2)}, "nu": {"other": np.ones(2)}, "count": np.int32(1)})


def test_what_has_no_moments(tmp_path):
    """A folder of another project, and a run whose optimizer keeps none, are refused by name."""
    with pytest.raises(ValueError, match="is no workdir with checkpoints"):
        saved_moments(tmp_path, "latest")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": {"a": jnp.ones(2)}, "opt_state": {"trace": {"a": jnp.ones(2)}}})
    with pytest.raises(ValueError, match=r"the optimizer of .* has no moments"):
        saved_moments(tmp_path, "latest")


@pytest.fixture(scope="module")
def first(tiny_corpus, tmp_path_factory):
    """A short pre-training and its workdir."""
    experiment = Experiment(
        task=Pretraining(tiny_corpus, valid_limit=16),
        learner=Multitask(
            Bert(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=32, init_stddev=0.1),
            {"mlm": Mlm(max_predictions=5)},
        ),
        optimizer=BertAdam(learning_rate=1e-2),
        steps=4,
        batch_size=16,
        eval_batch_size=16,
        log_every=1,
    )
    workdir = tmp_path_factory.mktemp("runs") / "first"
    train(experiment, workdir)
    return experiment, workdir


def test_a_run_keeps_the_optimizer(first, tmp_path):
    """Its count goes on, and so do the second moments of what both have; a new head joins."""
    experiment, workdir = first
    second = dataclasses.replace(
        experiment,
        learner=Multitask(None, {"mlm": Mlm(max_predictions=5), "nsp": Nsp()}),
        init_from=workdir,
        init_optimizer=True,
        steps=1,
    )
    run = resolve(second)
    before = restore_part(workdir / "checkpoints", "opt_state")["1"]
    jax.tree.map(np.testing.assert_array_equal, run.moments, before)
    train(second, tmp_path / "second")
    after = restore_part(tmp_path / "second/checkpoints", "opt_state")["1"]
    assert int(before["count"]) == 4 and int(after["count"]) == 5
    # nu <- 0.999 nu + 0.001 g^2: it never falls further in one step. Of a new optimizer it would.
    nu = [jax.tree.leaves(tree["nu"]["encoder"]["layers"]) for tree in (before, after)]
    for old, new in zip(*nu, strict=True):
        assert np.any(old) and (np.asarray(new) >= 0.998 * np.asarray(old)).all()
    assert set(after["nu"]) - set(before["nu"]) == {"objectives_nsp"}


def test_a_model_for_longer_rows(first, tiny_corpus):
    """Rows longer than the position table are an error that is left by asking for further rows, which changes nothing
    else of the weights."""
    experiment, workdir = first
    short = restore_params(workdir / "checkpoints")
    short = extend_positions(short, 32, "copied", 0.1, 0)
    short["encoder"]["embeddings"]["positions"]["table"] = positions(short)[:12]
    second = dataclasses.replace(
        experiment, learner=Multitask(None, {"mlm": Mlm(max_predictions=5)}), init_from=workdir
    )
    start = resolve(second)
    model = start.learner.clone(encoder=start.learner.encoder.clone(max_length=12))
    to_come = Pretrained(model, short, start.tokenizer)
    with pytest.raises(ValueError, match="rows of 32 tokens, but the encoder takes 12"):
        resolve(second, to_come)
    run = resolve(dataclasses.replace(second, extend_positions="copied"), to_come)
    assert run.learner.encoder.max_length == 32
    table = positions(run.initial)
    np.testing.assert_array_equal(table[12:24], table[:12])
    np.testing.assert_array_equal(run.initial["encoder"]["pooler"]["kernel"], short["encoder"]["pooler"]["kernel"])


def test_there_must_be_something_to_take_over(first):
    """Without weights to start from, or with random ones, neither has a meaning."""
    experiment, workdir = first
    for field in ({"init_optimizer": True}, {"extend_positions": "copied"}):
        with pytest.raises(ValueError, match=f"{next(iter(field))} is for the weights of init_from"):
            dataclasses.replace(experiment, **field)
        with pytest.raises(ValueError, match=f"{next(iter(field))} is for the weights of init_from"):
            dataclasses.replace(experiment, init_from=workdir, random_weights=True, **field)

"""A batch in micro-batches is the batch: losses, metrics, gradients, dropout, on any devices and in any layout."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from bert_jax.data.packing import Layout
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.tag import Tag
from bert_jax.training.accumulation import check_accumulate, groups, micro_batches
from bert_jax.training.sharding import AXES, MeshShape, Together
from bert_jax.training.step import make_init, make_train_step, state_shardings

pytestmark = pytest.mark.xdist_group("accumulation")  # the fixtures are runs: made once, in one process

V, B, L, STEPS = 40, 32, 16, 3
SIZES = {"vocab_size": V, "num_layers": 1, "width": 16, "num_heads": 2, "mlp_width": 32, "max_length": L}
ENCODER = Bert(**SIZES, init_stddev=0.2)  # with dropout, and far enough from zero that all of it matters
MLM = Mlm(vocab_size=V, special_ids=(2, 3, 4), max_predictions=3)
LEARNERS = {
    "pre-training": Multitask(ENCODER, {"mlm": MLM, "nsp": Nsp()}, {"nsp": 0.3}),
    "fine-tuning": Multitask(ENCODER, {"classify": Classify(3), "tag": Tag(3), "choice": Choice(4)}),
}
SGD = optax.sgd(0.1)  # parameters are the gradients, and not what Adam makes of their rounding


def batch_of(step, rows=B):
    """The first half has long rows, the second short ones, and the last quarter counts nothing."""
    rng = np.random.default_rng(step)
    lengths = np.where(np.arange(rows) < rows // 2, rng.integers(5, 8, rows), rng.integers(3, 5, rows)).astype(np.int32)
    lengths[0] = 9
    real = np.arange(L) < lengths[:, None]
    tokens = np.where(real, rng.integers(5, V, real.shape), 0).astype(np.int32)
    tokens[:, 0] = 2
    weight = (np.arange(rows) < 3 * rows // 4).astype(np.float32)
    return {
        "tokens": tokens,
        "segments": (np.arange(L) >= 2).astype(np.int32) * real,
        "tags": np.where(real, rng.integers(-1, 3, real.shape), -1).astype(np.int32),
        "lengths": lengths,
        "example": rng.permutation(1000)[:rows].astype(np.uint32),
        "weight": weight,
        "pair_label": rng.integers(0, 2, rows).astype(np.int32),
        "label": np.repeat(rng.integers(0, 3, rows // 4), 4).astype(np.int32),
    }


def one_device():
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)


def trained(learner, accumulate, padding, mesh, seeds=1):
    """Parameters and, of each step, metrics and scalars."""
    together = Together(mesh, seeds)
    layout = Layout(padding, L, groups(together, accumulate)[0])
    batches = [together.stack(layout([batch_of(10 * seed + i) for seed in range(seeds)])) for i in range(STEPS)]
    assert padding != "packed" or all("packing" in batch for batch in batches)
    shardings = together.own(state_shardings(learner, SGD, batch_of(0), mesh))
    numbers = np.arange(seeds, dtype=np.uint32)
    state = make_init(learner, SGD, shardings, together)(numbers if seeds > 1 else numbers[0], batch_of(0))
    step, seen = make_train_step(learner, SGD, shardings, together, accumulate), []
    for batch in batches:
        state, values = step(state, jax.device_put(batch, together.batch))
        seen.append(jax.device_get(values))
    return jax.device_get(state.params), seen


def assert_same(found, wanted):
    """Within 1e-5 of each array's largest number: only the order of sums differs."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        bound = 1e-5 * max(np.abs(b).max(), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module", params=LEARNERS)
def whole(request):
    """Without micro-batches and packing, on one device."""
    return request.param, trained(LEARNERS[request.param], 1, "full", one_device())


@pytest.mark.parametrize(
    ("accumulate", "padding", "mesh"),
    [
        (4, "packed", None),
        (2, "packed", MeshShape(data=2, fsdp=2, tensor=2)),
    ],
)  # fmt: skip
def test_micro_batches_are_the_batch(whole, accumulate, padding, mesh):
    """Counts differ from micro-batch to micro-batch, and in some nothing counts at all; dropout is that of the whole
    batch, in layers and heads."""
    name, wanted = whole
    assert_same(trained(LEARNERS[name], accumulate, padding, mesh.build() if mesh else one_device()), wanted)


def test_what_is_compared_is_not_trivial(whole):
    """Something is counted, and learned."""
    _, (_, seen) = whole
    for metrics, scalars in seen:
        assert all(mean.count > 0 for mean in metrics.values()) and not scalars["skipped"]
        assert scalars["gradient_norm"] > 0.1
    losses = [scalars["loss"] for _, scalars in seen]
    assert np.ptp(losses) > 0.01


def test_several_seeds():
    """At once, dealt out over the devices: each is what it is alone without micro-batches."""
    learner, mesh = LEARNERS["pre-training"], MeshShape(data=2, fsdp=4).build()
    found = jax.tree.map(lambda leaf: leaf[0], trained(learner, 2, "packed", mesh, seeds=2))
    assert_same(found, trained(learner, 1, "full", one_device()))


def test_no_row_moves_to_another_device():
    """Each micro-batch has an equal share of every device's own rows, with their numbers and their part of the plan."""
    mesh = MeshShape(data=4, fsdp=2).build()
    together = Together(mesh)
    (batch,) = Layout("packed", L, groups(together, 2)[0])([batch_of(0)])
    placed = jax.device_put(batch, together.batch)
    split = jax.jit(lambda batch: micro_batches(batch, 2, together))
    assert not any(word in split.lower(placed).compile().as_text() for word in ("all-", "collective-permute"))
    parts = jax.device_get(split(placed))
    assert parts["row"].tolist() == [[4 * d + 2 * k + i for d in range(8) for i in range(2)] for k in range(2)]
    for name in ("tokens", "example"):
        np.testing.assert_array_equal(parts[name], batch[name][parts["row"]])
    np.testing.assert_array_equal(parts["packing"][1], batch["packing"][1::2])
    whole = jax.device_put(Layout("packed", L, 8)([batch_of(0)])[0], together.batch)
    with pytest.raises(ValueError, match=r"packing \(8, .* cannot be split into 2 micro-batches on 8 devices"):
        micro_batches(whole, 2, together)


def test_the_groups_of_a_process():
    """Those of its own parts, in the order of its rows."""

    class Half(Together):
        own_parts = (2, 3)

    assert groups(Together(MeshShape(data=4, fsdp=2).build()), 3) == (24, None)
    assert groups(Half(MeshShape().build()), 2) == (16, (4, 5, 6, 7))


def test_the_counts_cost_nothing():
    """They come from a second pass over the whole batch, of which the compiled program keeps no dot."""
    learner, together = Multitask(ENCODER, {"nsp": Nsp()}), Together(one_device())
    shardings = state_shardings(learner, SGD, batch_of(0), together.mesh)
    state = jax.eval_shape(make_init(learner, SGD, shardings, together), np.uint32(0), batch_of(0))

    def dots_outside_of_loops(accumulate):
        step = make_train_step(learner, SGD, shardings, together, accumulate)
        text = step.lower(state, batch_of(0)).compile().as_text()
        entry = text[text.index("ENTRY") :]
        return entry.count(" dot("), text.count(" dot(")

    (alone, _), (outside, everywhere) = dots_outside_of_loops(1), dots_outside_of_loops(2)
    assert alone > 0 and outside == 0 and everywhere >= alone


class Squared(Multitask):
    """A loss that is not linear in its totals."""

    def loss_of(self, metrics):
        return jnp.square(super().loss_of(metrics))


def test_a_loss_that_is_no_sum_over_rows():
    """Is refused, rather than trained with another gradient."""
    learner, mesh = Squared(ENCODER, {"nsp": Nsp()}), one_device()
    shardings = state_shardings(learner, SGD, batch_of(0), mesh)
    state = jax.eval_shape(make_init(learner, SGD, shardings, Together(mesh)), np.uint32(0), batch_of(0))
    make_train_step(learner, SGD, shardings, Together(mesh)).lower(state, batch_of(0))
    with pytest.raises(ValueError, match="not linear in the totals of the learner's means"):
        make_train_step(learner, SGD, shardings, Together(mesh), 2).lower(state, batch_of(0))


def test_batches_that_cannot_be_split():
    """Named with what to take."""
    together = Together(MeshShape(data=4, tensor=2).build())
    check_accumulate(24, 3, together)
    with pytest.raises(ValueError, match=r"24 does not make 4 micro-batches .* on 4 devices .* multiple of 16"):
        check_accumulate(24, 4, together)

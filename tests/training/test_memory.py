"""The estimated memory of a step: exact where shapes say it, near the compiled program's where they do not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.packing import Layout
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.nn.losses import Mean
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.training import memory as memory_module
from bert_jax.training.accumulation import groups
from bert_jax.training.memory import compiled_bytes, device_bytes, estimate, readable, residual_bytes
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape, Together
from bert_jax.training.step import abstract_parameters, make_init, make_train_step, state_shardings

V, L, D, N = 512, 64, 64, 2
ENCODER = Bert(vocab_size=V, num_layers=N, width=D, num_heads=2, mlp_width=4 * D, max_length=L, scan=True)
MLM = Mlm(vocab_size=V, special_ids=(2, 3, 4), max_predictions=10)
OPTIMIZER = BertAdam(warmup=1).build(10)


def learner_of(**changes):
    return Multitask(ENCODER.clone(**changes), {"mlm": MLM, "nsp": Nsp()})


def batch_of(rows, length=L):
    return {
        "tokens": np.full((rows, L), 7, np.int32),
        "segments": np.zeros((rows, L), np.int32),
        "lengths": np.full(rows, length, np.int32),
        "example": np.arange(rows, dtype=np.uint32),
        "weight": np.ones(rows, np.float32),
        "pair_label": np.zeros(rows, np.int32),
    }


def both(learner, batch, mesh, accumulate=1, seeds=1):
    """The estimate, and the compiled step with its state."""
    together = Together(mesh, seeds)
    params = nn.unbox(abstract_parameters(learner, batch))
    alone = state_shardings(learner, OPTIMIZER, batch, mesh)
    shardings = together.own(alone)
    (laid_out,) = Layout("packed", L, groups(together, accumulate)[0])([batch])
    found = estimate(learner, OPTIMIZER, params, alone, laid_out, together, accumulate)
    numbers = np.arange(seeds, dtype=np.uint32)
    state = make_init(learner, OPTIMIZER, shardings, together)(numbers if seeds > 1 else numbers[0], batch)
    step = make_train_step(learner, OPTIMIZER, shardings, together, accumulate)
    return found, step.lower(state, together.stack([laid_out] * seeds)).compile(), state


def on_one_device(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("mesh", "accumulate", "seeds", "length"),
    [
        (MeshShape(data=2, fsdp=4), 2, 1, L // 4),  # packed
        (MeshShape(data=4, fsdp=2), 1, 4, L),
    ],
)
def test_the_estimate(mesh, accumulate, seeds, length):
    """What the state takes is exact, wherever it lies; all of it is within a third of what XLA plans for the step."""
    found, compiled, state = both(learner_of(), batch_of(64, length), mesh.build(), accumulate, seeds)
    assert found.parameters == on_one_device(state.params) == found.gradients // accumulate
    assert found.optimizer == on_one_device(state.opt_state)
    planned = compiled_bytes(compiled)
    assert 0.67 * planned < found.total < 1.5 * planned
    assert found.activations > 0.5 * found.total  # what is estimated, and not known, matters here
    assert str(found).startswith(f"parameters {readable(found.parameters)}, gradients")


def test_the_compiled_bytes():
    """What is given, returned and in between, the donated once."""

    def add(x, y):
        return x + jnp.sum(y)

    x, y = jnp.ones(1000), jnp.ones(500)
    assert 6000 + 4000 <= compiled_bytes(jax.jit(add).lower(x, y).compile()) < 6000 + 4000 + 200
    assert 6000 <= compiled_bytes(jax.jit(add, donate_argnums=0).lower(x, y).compile()) < 6000 + 200


class Toy(nn.Module):
    """sin(x w), of which the backward pass reads the cosine; x is the batch."""

    def corrupt(self, key, step, batch):
        return batch

    @nn.compact
    def __call__(self, batch, train=False):
        w = self.param("w", nn.with_logical_partitioning(nn.initializers.ones, ("D",)), (5, 3))
        return {"a/loss": Mean(jnp.sum(jnp.sin(batch["x"] @ w)), jnp.float32(1))}

    def loss_of(self, metrics):
        return metrics["a/loss"].value

    trains_encoder = True


def test_what_the_backward_pass_reads():
    """By hand: 4 bytes for each of 7 x 3 cosines, a scalar beside, and neither parameters nor batch."""
    batch = {"x": np.ones((7, 5), np.float32)}
    params = nn.unbox(abstract_parameters(Toy(), batch))
    assert 7 * 3 * 4 <= residual_bytes(Toy(), params, batch) <= 7 * 3 * 4 + 8


def test_remat_keeps_less():
    """In the order of its names, in float32 and in bfloat16; "full" keeps nothing of a layer but its input, "dots" the
    projections besides, which are 3 + 1 + 4 + 1 times the width, and no product of attention."""
    rows, kept = 8, {}
    for dtype in ("float32", "bfloat16"):
        for remat in ("none", "dots", "full"):
            learner = learner_of(remat=remat, dtype=dtype)
            params = nn.unbox(abstract_parameters(learner, batch_of(rows)))
            kept[dtype, remat] = residual_bytes(learner, params, batch_of(rows))
        assert kept[dtype, "full"] < kept[dtype, "dots"] < kept[dtype, "none"]
        tokens = rows * L * D * 4
        assert kept[dtype, "dots"] - kept[dtype, "full"] == 9 * N * tokens
        assert kept[dtype, "full"] < (N + 8) * tokens


def test_the_memory_of_a_device(monkeypatch, tmp_path):
    """A share of the main memory for each of the eight, less where a container has less; of an accelerator what it
    says."""
    monkeypatch.setattr(memory_module, "_CGROUP_LIMIT", tmp_path / "none")
    whole = device_bytes()
    assert 2**27 < whole < 2**45
    for said, wanted in (("max\n", whole), (f"{8 * 1000}\n", 1000)):
        (tmp_path / "limit").write_text(said)
        monkeypatch.setattr(memory_module, "_CGROUP_LIMIT", tmp_path / "limit")
        assert device_bytes() == wanted

    class Accelerator:
        platform = "gpu"

        def __init__(self, stats):
            self.memory_stats = lambda: stats

    for stats, wanted in (({"bytes_limit": 7}, 7), ({}, None), (None, None)):
        monkeypatch.setattr(memory_module.jax, "local_devices", lambda stats=stats: [Accelerator(stats)])
        assert device_bytes() == wanted


def test_sizes_are_readable():
    """Three digits, whatever the unit."""
    sizes = (0, 999, 1000, 12.5 * 2**20, 2**30, 123.4 * 2**30, 5 * 2**50)
    assert [readable(size) for size in sizes] == [
        "0 bytes", "999 bytes", "0.98 KiB", "12.5 MiB", "1.00 GiB", "123 GiB", "5120 TiB"
    ]  # fmt: skip

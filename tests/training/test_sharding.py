"""One device and many: the same numbers, and every array really lies where the table of axis letters says."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import AXES, MeshShape, Together, check_batch_size
from bert_jax.training.step import make_init, make_train_step, state_shardings

pytestmark = pytest.mark.xdist_group("sharding")  # the fixtures are runs: made once, in one process

V, B, L, STEPS = 40, 16, 16, 20
LEARNER = Multitask(  # dropout is on: its bits must not depend on the mesh
    Bert(vocab_size=V, num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=L),
    {"mlm": Mlm(vocab_size=V, special_ids=(2, 3, 4), max_predictions=3), "nsp": Nsp()},
)
OPTIMIZER = BertAdam(learning_rate=1e-2, warmup=1).build(40)
MESHES = {
    "data": MeshShape(),
    "fsdp": MeshShape(data=2, fsdp=4),
    "tensor": MeshShape(data=0, tensor=2),
    "all three": MeshShape(data=2, fsdp=2, tensor=2),
}

# The axes of every parameter as the modules name them, and the table of the meshes written out once more.
LETTERS = {
    "embeddings/words/table": "VD",
    "embeddings/positions/table": "LD",
    "embeddings/segments/table": "SD",
    "attention/qkv/kernel": "NDJHK",
    "attention/qkv/bias": "NJHK",
    "attention/out/kernel": "NHKD",
    "attention/out/bias": "ND",
    "mlp/widen/kernel": "NDF",
    "mlp/widen/bias": "NF",
    "mlp/narrow/kernel": "NDF",
    "mlp/narrow/bias": "ND",
    "attention_norm/": "ND",
    "mlp_norm/": "ND",
    "embeddings/norm/": "D",
    "pooler/kernel": "DE",
    "pooler/bias": "E",
    "objectives_mlm/transform/kernel": "DE",
    "objectives_mlm/transform/bias": "E",
    "objectives_mlm/norm/": "D",
    "objectives_mlm/bias": "V",
    "objectives_nsp/output/kernel": "DC",
    "objectives_nsp/output/bias": "C",
}
SPLIT = {"D": "fsdp", "V": "tensor", "H": "tensor", "F": "tensor"}


def batch_of(step):
    rng = np.random.default_rng(step)
    lengths = rng.integers(L // 2, L + 1, B).astype(np.int32)
    tokens = np.where(np.arange(L) < lengths[:, None], rng.integers(5, V, (B, L)), 0).astype(np.int32)
    return {
        "tokens": tokens,
        "segments": (np.arange(L) >= L // 3).astype(np.int32) * (tokens > 0),
        "lengths": lengths,
        "example": rng.permutation(1000)[:B].astype(np.uint32),
        "weight": np.ones(B, np.float32),
        "pair_label": rng.integers(0, 2, B).astype(np.int32),
    }


def one_device():
    """A mesh over one of this process's devices, as a machine with one device has it."""
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)


def run(mesh):
    """State and scalars after some steps, and the number of times the step was traced."""
    traces = []

    class Counted(Multitask):
        def loss_of(self, metrics):
            traces.append(1)
            return super().loss_of(metrics)

    learner = Counted(LEARNER.encoder, LEARNER.objectives)
    shardings = state_shardings(learner, OPTIMIZER, batch_of(0), mesh)
    state = make_init(learner, OPTIMIZER, shardings, Together(mesh))(np.uint32(7), batch_of(0))
    step, scalars = make_train_step(learner, OPTIMIZER, shardings, Together(mesh)), []
    for i in range(STEPS):
        state, (_, values) = step(state, jax.device_put(batch_of(i), Together(mesh).batch))
        scalars.append(jax.device_get(values))
    return state, scalars, len(traces)


@pytest.fixture(scope="module")
def alone():
    return run(one_device())


@pytest.fixture(scope="module", params=MESHES)
def several(request):
    shape = MESHES[request.param]
    return shape, *run(shape.build())


def test_the_fixtures_have_the_devices_that_they_claim(alone, several):
    """Otherwise the comparison below would compare a thing with itself."""
    assert len(alone[0].params["encoder"]["pooler"]["kernel"].sharding.device_set) == 1
    assert len(several[1].params["encoder"]["pooler"]["kernel"].sharding.device_set) == 8


def test_one_and_several_devices_train_alike(alone, several):
    """Only the order of sums differs: losses and gradient norms within 1e-6 of their size in the first five steps, and
    within 5e-6 up to the twentieth; then parameters within 1e-5.

    Nineteen updates of up to 0.01 lie between, and Adam divides by the root of the moments, which amplifies rounding.
    """
    (state, scalars, _), (_, other, others, _) = alone, several
    for step, (a, b) in enumerate(zip(scalars, others, strict=True)):
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(b[name], a[name], rtol=1e-6 if step < 5 else 5e-6, err_msg=f"{name} of {step}")
        assert a["tokens"] == b["tokens"]
    assert scalars[0]["loss"] != scalars[-1]["loss"]
    pairs = list(zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True))
    print(f"\nlargest difference of a parameter {max(np.abs(a - np.asarray(b)).max() for a, b in pairs):.1e}")
    for a, b in pairs:
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=0, atol=1e-5)


def normal(spec):
    """Without the trailing axes that are not split, which may or may not be written."""
    spec = tuple(spec)
    while spec and spec[-1] is None:
        spec = spec[:-1]
    return spec


def test_every_parameter_and_moment_lies_as_the_table_says(several):
    """After several steps, not only as asked for at first: by axis letters, the moments as their parameters."""
    shape, state, _, _ = several
    split_leaves = 0
    for tree in (state.params, state.opt_state[1].mu, state.opt_state[1].nu):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            letters = next(letters for part, letters in LETTERS.items() if part in name)
            assert len(letters) == leaf.ndim, name
            assert normal(leaf.sharding.spec) == normal(SPLIT.get(letter) for letter in letters), name
            parts = [getattr(shape, SPLIT[letter]) if letter in SPLIT else 1 for letter in letters]
            pieces = {piece.data.shape for piece in leaf.addressable_shards}
            assert pieces == {tuple(size // n for size, n in zip(leaf.shape, parts, strict=True))}, name
            split_leaves += max(parts) > 1
    assert (split_leaves > 0) == (shape != MESHES["data"])
    assert state.step.sharding.is_fully_replicated and state.opt_state[1].count.sharding.is_fully_replicated


def test_the_step_is_traced_once(alone, several):
    """Several steps, one compilation: a second one would be silent slowness."""
    assert alone[2] == 1 and several[3] == 1


def test_batches_are_split_over_data_and_fsdp():
    """Each device holds its own rows, and tensor-parallel devices the same ones."""
    for shape, rows in ((MESHES["data"], 2), (MESHES["fsdp"], 2), (MESHES["tensor"], 4)):
        tokens = jax.device_put(batch_of(0)["tokens"], Together(shape.build()).batch)
        assert {piece.data.shape for piece in tokens.addressable_shards} == {(rows, L)}


def test_meshes_have_auto_axes():
    """Under explicit axes, which `jax.make_mesh` would give, Linen's logical constraints raise."""
    mesh = MeshShape().build()
    assert mesh.axis_types == (AxisType.Auto,) * 3 and dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(MeshShape(fsdp=2, tensor=2).build().shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    "shape", [MeshShape(data=4), MeshShape(fsdp=3), MeshShape(data=8, tensor=2), MeshShape(fsdp=16)]
)
def test_a_mesh_that_does_not_match_the_devices(shape):
    """Named with its axes and the number of devices there are."""
    with pytest.raises(ValueError, match=r"mesh data \d+ x fsdp \d+ x tensor \d+ does not make the 8 devices here"):
        shape.build()


def test_a_batch_that_cannot_be_dealt_out():
    """Named with what to take; tensor parallelism does not split rows."""
    check_batch_size(16, Together(MeshShape().build()))
    check_batch_size(12, Together(MeshShape(fsdp=2, tensor=2).build()))
    with pytest.raises(ValueError, match=r"batch_size 12 is not divisible by the 8 .* fsdp 4\): take a multiple of 8"):
        check_batch_size(12, Together(MeshShape(fsdp=4).build()))


def test_an_axis_that_cannot_be_split():
    """The parameter, its shape and the axis are named, before anything is compiled."""
    with pytest.raises(
        ValueError,
        match=r"attention/out/kernel \(1, 2, 8, 16\): axis of size 2 cannot be split over tensor = 4 devices",
    ):
        state_shardings(LEARNER, OPTIMIZER, batch_of(0), MeshShape(tensor=4).build())

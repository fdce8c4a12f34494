"""Checkpoints: the same bits back, the right ones kept, a misfit named before anything is read, kill -9 survived."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bert_jax.training import checkpoint
from bert_jax.training.checkpoint import Checkpoints, restore_params
from bert_jax.training.optim import BertAdam


def make_state(seed=0, width=8):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "words": {"table": jax.random.normal(keys[0], (5, width))},
        "layers": {"norm": {"scale": jnp.ones((2, width))}, "kernel": jax.random.normal(keys[1], (2, width, 3))},
        "half": jax.random.normal(keys[2], (width,), jnp.bfloat16),
    }
    return {
        "params": params,
        "opt_state": jax.tree.map(lambda x: x + x.dtype.type(seed), BertAdam().build(10).init(params)),
        "step": jnp.int32(seed),
        "seed": jnp.uint32(2**32 - 1 - seed),
    }


def assert_bit_equal(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_round_trip_is_bit_exact(tmp_path):
    """Every dtype, NaN payloads and infinities included, and optax's named tuples come back as they were."""
    state = make_state(3)
    state["params"]["odd"] = jnp.array([jnp.nan, -jnp.inf, -0.0, 1e-45], jnp.float32)
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.latest_step is None
        assert checkpoints.save(3, state)
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
    assert_bit_equal(restored, state)
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:  # and in a new process, as it were
        assert checkpoints.steps() == [3]
        assert_bit_equal(checkpoints.restore(state), state)


def test_donated_after_save(tmp_path):
    """The arrays may be donated and overwritten as soon as save returns, while the writing goes on."""
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x + x.dtype.type(1), tree), donate_argnums=0)
    state = {"params": {str(i): jnp.full((512, 512), i, jnp.float32) for i in range(8)}}
    wanted = jax.tree.map(np.array, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(20):
            state = update(state)
        assert_bit_equal(checkpoints.restore(jax.eval_shape(lambda: state)), wanted)


def test_restores_on_the_sharding_asked_for(tmp_path):
    """Each leaf is put where the abstract state says, wherever it was when saved."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = {"a": jax.device_put(jnp.arange(16), split), "b": jax.device_put(jnp.arange(16.0), whole)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for shardings in [{"a": split, "b": whole}, {"a": whole, "b": split}, {"a": split, "b": None}]:
            asked = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=shardings[k]) for k, v in state.items()}
            restored = checkpoints.restore(asked)
            assert_bit_equal(restored, state)
            assert all(restored[name].sharding == where for name, where in shardings.items() if where is not None)


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 5)])
def test_keeps_the_last_and_the_best(tmp_path, mode, best):
    """The last k stay, and the best by the metric; not-a-number is never the best; a restart changes nothing."""
    losses = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 2.0, 5: 5.0, 6: 1.5, 7: 4.0, 8: 4.5}
    with Checkpoints(tmp_path, keep=2, best="valid/loss", mode=mode) as checkpoints:
        assert checkpoints.best_step is None
        for step, loss in losses.items():
            checkpoints.save(step, {"step": jnp.int32(step)}, {"valid/loss": loss, "other": 0})
    kept = [best, 7, 8]
    with Checkpoints(tmp_path, keep=2, best="valid/loss", mode=mode) as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest_step, checkpoints.best_step) == (kept, 8, best)
        assert checkpoints.restore({"step": jnp.int32(0)}, "best") == {"step": best}
        assert checkpoints.restore({"step": jnp.int32(0)}, 7) == {"step": 7}
        checkpoints.save(9, {"step": jnp.int32(9)})  # without metrics it is never the best
        assert checkpoints.best_step == best
        checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, [best, 8, 9]))


def test_the_later_of_equals_is_best(tmp_path):
    """Equal metrics: the later checkpoint."""
    with Checkpoints(tmp_path, best="x", mode="max") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"step": jnp.int32(step)}, {"x": 1.0})
        assert checkpoints.best_step == 2


def test_saving_a_step_twice_is_harmless(tmp_path):
    """The second save of a step does nothing, also after a restart and while the first is going on."""
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, {"a": jnp.float32(1)})
        assert not checkpoints.save(1, {"a": jnp.float32(2)})
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.save(1, {"a": jnp.float32(2)})
        assert checkpoints.restore({"a": jnp.float32(0)}) == {"a": 1}


def test_misfit_is_named_before_anything_is_read(tmp_path, monkeypatch):
    """Another shape, another dtype, a missing and an unexpected leaf: all named, with what each side holds."""
    state = make_state()
    other = make_state(width=7)
    other["params"]["half"] = jnp.zeros(8, jnp.float32)
    other["params"]["more"] = jnp.zeros((1, 2))
    del other["seed"]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        monkeypatch.setattr(ocp.CheckpointManager, "restore", None)
        with pytest.raises(ValueError, match="does not fit this run") as error:
            checkpoints.restore(other)
    message = str(error.value)
    assert "params/words/table: float32 (5, 8) in the checkpoint, float32 (5, 7) in this run" in message
    assert "opt_state/1/mu/words/table: float32 (5, 8) in the checkpoint, float32 (5, 7) in this run" in message
    assert "params/half: bfloat16 (8,) in the checkpoint, float32 (8,) in this run" in message
    assert "params/more: not in the checkpoint, float32 (1, 2) in this run" in message
    assert "seed: uint32 () in the checkpoint, not in this run" in message
    assert "step:" not in message


def test_no_such_checkpoint(tmp_path):
    """What is there is said when the step asked for is not."""
    with Checkpoints(tmp_path, best="x") as checkpoints:
        with pytest.raises(FileNotFoundError, match="the folder holds none"):
            checkpoints.restore({"a": jnp.float32(0)})
        checkpoints.save(4, {"a": jnp.float32(0)})
        with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 5 .*steps there: 4"):
            checkpoints.restore({"a": jnp.float32(0)}, 5)
        with pytest.raises(FileNotFoundError, match="no checkpoint with metrics"):
            checkpoints.restore({"a": jnp.float32(0)}, "best")


def test_wrong_arguments(tmp_path):
    """Refused before a folder is made."""
    with pytest.raises(ValueError, match="keep must be at least 1"):
        Checkpoints(tmp_path / "x", keep=0)
    assert not (tmp_path / "x").exists()
    with Checkpoints(tmp_path, best="valid/loss") as checkpoints, pytest.raises(ValueError, match="only train/loss"):
        checkpoints.save(1, {"a": jnp.float32(0)}, {"train/loss": 1.0})


def test_restore_params_alone(tmp_path):
    """The parameters come as numpy arrays by name, without the optimizer, and nothing in the folder changes."""
    states = {step: make_state(step) for step in (1, 2, 3)}
    with Checkpoints(tmp_path, best="accuracy", mode="max") as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"accuracy": -abs(step - 2)})
    before = sorted(path for path in tmp_path.rglob("*"))
    for asked, step in [(None, 3), ("best", 2), (1, 1)]:
        params = restore_params(tmp_path, asked)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
        assert_bit_equal(params, states[step]["params"])
    assert sorted(path for path in tmp_path.rglob("*")) == before
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 4"):
        restore_params(tmp_path, 4)
    with pytest.raises(FileNotFoundError, match="no folder of checkpoints"):
        restore_params(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_restore_params_that_are_not_there(tmp_path):
    """A run without a metric has no best checkpoint, and a state without params has none to give."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"step": jnp.int32(1)})
    with pytest.raises(ValueError, match="named no metric"):
        restore_params(tmp_path, "best")
    with pytest.raises(ValueError, match="holds no params"):
        restore_params(tmp_path)


SAVE_UNTIL_KILLED = """
    import sys
    import numpy as np
    from bert_jax.training.checkpoint import Checkpoints

    with Checkpoints(sys.argv[1], keep=2, best="x") as checkpoints:
        step = (checkpoints.latest_step or 0) + 1
        while True:
            state = {str(i): np.full((64, 256), step, np.float32) for i in range(8)}
            checkpoints.save(step, state, {"x": -step})
            print(step, flush=True)
            step += 1
"""


def test_killed_while_saving(tmp_path):
    """kill -9 at any moment of save after save leaves whole checkpoints only, and the next run goes on from there."""
    root = Path(__file__).parents[2]
    abstract = {str(i): jax.ShapeDtypeStruct((64, 256), np.float32) for i in range(8)}
    latest = 0
    for trial, delay in enumerate([0.0, 0.02, 0.045, 0.07]):
        command = [sys.executable, "-c", textwrap.dedent(SAVE_UNTIL_KILLED), str(tmp_path)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            for _ in range(3):
                started = int(process.stdout.readline())
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.read()
        finished = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
        with Checkpoints(tmp_path, keep=2, best="x") as checkpoints:
            assert checkpoints.latest_step >= started - 1 > latest
            assert sorted(checkpoints.steps()) == sorted(finished)
            for step in checkpoints.steps():
                restored = checkpoints.restore(abstract, step)
                assert all((leaf == step).all() for leaf in restored.values()), (trial, step)
            latest = checkpoints.latest_step
            checkpoints.save(latest + 1, {k: np.full(v.shape, latest + 1, v.dtype) for k, v in abstract.items()})
        assert all(path.name.isdigit() for path in tmp_path.iterdir()), "remains of the killed save are gone"


@pytest.mark.parametrize("surface", ["save", "check", "restore", "close"])
def test_a_save_that_fails(tmp_path, monkeypatch, surface):
    """What goes wrong in the background is raised by whatever comes next, with the folder; what was there stays, though
    only one was to be kept, and the next save is as if that one had not been begun."""
    state = {"a": jnp.float32(0)}

    def no_room(*_):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state)
    checkpoints.wait()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_checksums", no_room)
        checkpoints.save(2, state)
        while checkpoints._manager.is_saving_in_progress():
            time.sleep(0.01)
        actions = {"save": lambda: checkpoints.save(3, state), "restore": lambda: checkpoints.restore(state)}
        failure = rf"{tmp_path}/2 was not saved, those before it are as they were \(1\): OSError: .*No space left"
        with pytest.raises(OSError, match=failure):
            actions.get(surface, getattr(checkpoints, surface))()
    assert checkpoints.steps() == [1]
    assert checkpoints.save(2, state)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2"]


def test_says_nothing_on_the_way(tmp_path, capfd, caplog):
    """Saving and restoring logs no warnings and prints nothing."""
    with Checkpoints(tmp_path, keep=1, best="x") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {"x": step})
        checkpoints.restore(make_state())
    restore_params(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname != "INFO"]

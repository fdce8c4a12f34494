"""Something hangs: the run ends with a status of its own and says what hung; the same command continues."""

import subprocess
import time

import pytest

from tests.faults.tiny_run import assert_the_same_run, finish, run, start

# What is made to hang, what is said of it, and a function that the stacks must show.
HANGS = {
    "loader": (
        """
        import threading
        from bert_jax.data.loader import TrainingBatches
        whole = TrainingBatches.__getitem__
        def hang(self, step):
            if step == 9:
                threading.Event().wait()
            return whole(self, step)
        TrainingBatches.__getitem__ = hang
        """,
        "waiting for the loader to read the batch of step 10",
        "in hang",
    ),
    "step": (
        """
        whole = train.make_train_step
        def make(*args):
            step, calls = whole(*args), []
            def hang(state, batch):
                calls.append(0)
                if len(calls) == 10:
                    time.sleep(1e6)
                return step(state, batch)
            return hang
        train.make_train_step = make
        """,
        "training step 10",
        "in hang",
    ),
    "evaluation": (
        """
        from bert_jax.data.loader import EvaluationBatches
        def hang(self, i):
            time.sleep(1e6)
        EvaluationBatches.__getitem__ = hang
        """,
        "the evaluation after step 8",
        "in evaluate_all",
    ),
    "save": (
        """
        from bert_jax.training import checkpoint
        def hang(*args):
            time.sleep(1e6)
        checkpoint.write_checksums = hang
        """,
        "saving the checkpoint of step 8",  # which waits for that of step 4
        "in hang",
    ),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", HANGS)
def test_hangs(program, straight, tmp_path, name):
    """Soon after the limit; without the fault the same command comes to the same end."""
    fault, what, where = HANGS[name]
    began = time.monotonic()
    code, said = finish(start(program, tmp_path / "run", "--stall-seconds", "20", fault=fault))
    assert code == 70, said
    assert f"error: stalled: {what} has taken more than 20 seconds (--stall-seconds)" in said
    assert where in said and "Thread " in said, said
    assert time.monotonic() - began < 90
    run(program, tmp_path / "run")
    assert_the_same_run(tmp_path / "run", straight)


@pytest.mark.faults
def test_suspended_is_no_stall(program, straight, tmp_path):
    """Time in which the process is stopped (Ctrl-Z, a cluster's suspend) does not count."""
    workdir = tmp_path / "run"
    process = start(program, workdir, "--stall-seconds", "8", pause=0.1)
    for line in process.stdout:
        if line.startswith("2/"):
            break
    subprocess.run(["kill", "-STOP", str(process.pid)], check=True)
    time.sleep(12)
    subprocess.run(["kill", "-CONT", str(process.pid)], check=True)
    code, said = finish(process)
    assert code == 0, said
    assert_the_same_run(workdir, straight)

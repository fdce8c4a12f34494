"""A run that is stopped or killed, in real processes: the same command continues to the same parameters, to the bit.

`tests/faults` has these faults and others many times over.
"""

import signal
import time

import pytest

from bert_jax.training.log import read_metrics
from tests.faults.tiny_run import (
    assert_the_same_run,
    checkpoints,
    finish,
    metrics,
    read_until,
    run,
    start,
    write_program,
)

pytestmark = pytest.mark.xdist_group("resume")  # the fixtures are runs: made once, in one process

STEPS, CHECKPOINT_EVERY, EVALUATE_EVERY = 48, 6, 16


@pytest.fixture(scope="module")
def program(tiny_corpus, tmp_path_factory):
    """The experiment file."""
    folder = tmp_path_factory.mktemp("experiments")
    return write_program(folder, tiny_corpus, STEPS, CHECKPOINT_EVERY, EVALUATE_EVERY)


@pytest.fixture(scope="module")
def straight(program, tmp_path_factory):
    """The workdir of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    run(program, workdir)
    assert checkpoints(workdir)[-1] == STEPS
    evaluated = [line["step"] for line in metrics(workdir) if "valid/mlm/loss" in line]
    assert evaluated == list(range(EVALUATE_EVERY, STEPS + 1, EVALUATE_EVERY))
    return workdir


def test_stopped_by_sigterm(program, straight, tmp_path):
    """Between two checkpoints: exit status 75, the step under way is saved, and the same command goes on after it."""
    workdir = tmp_path / "run"
    process = start(program, workdir, pause=0.05)
    said = read_until(process, 9)
    process.send_signal(signal.SIGTERM)
    code, rest = finish(process)
    assert code == 75, "".join(said) + rest
    saved = checkpoints(workdir)[-1]
    assert 9 <= saved < STEPS and f"stopped after step {saved} and saved; the same command continues" in rest
    assert read_metrics(workdir / "metrics.jsonl")[-1]["step"] == saved
    assert f"continues after step {saved}\n" in run(program, workdir)
    assert_the_same_run(workdir, straight)


def test_killed(program, straight, tmp_path):
    """kill -9 before the first checkpoint, while one is being written, and around an evaluation and its checkpoint."""
    workdir = tmp_path / "run"
    # After the line of a step come the pause, its evaluation, and its checkpoint, which is written in the background.
    moments = [(3, 0.0), (2 * CHECKPOINT_EVERY, 0.055), (EVALUATE_EVERY, 0.1)]
    for step, seconds in moments:
        process = start(program, workdir, pause=0.05)
        read_until(process, step)
        time.sleep(seconds)
        process.kill()
        code, _ = finish(process)
        assert code == -signal.SIGKILL
        # Only what came after the last checkpoint but one can be lost: the last one may still have been under way.
        assert max(checkpoints(workdir), default=0) >= step - 2 * CHECKPOINT_EVERY
    saved = checkpoints(workdir)[-1]
    assert f"continues after step {saved}\n" in run(program, workdir)
    assert_the_same_run(workdir, straight)

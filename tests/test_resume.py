"""A run that is stopped or killed, in real processes: the same command continues to the same parameters, to the bit."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics

STEPS, CHECKPOINT_EVERY, EVALUATE_EVERY = 48, 6, 16
PROGRAM = '''
    """A tiny pre-training with dropout, new masks at every visit, and several epochs."""

    import os
    import time
    from pathlib import Path

    from bert_jax import train
    from bert_jax.experiment import Experiment
    from bert_jax.learners.multitask import Multitask
    from bert_jax.models.bert import Bert
    from bert_jax.objectives.mlm import Mlm
    from bert_jax.objectives.nsp import Nsp
    from bert_jax.tasks.pretraining import Pretraining
    from bert_jax.training.log import Logger
    from bert_jax.training.optim import BertAdam

    class PacedLogger(Logger):
        def log(self, step, metrics):
            super().log(step, metrics)
            time.sleep(float(os.environ["PAUSE"]))

    def config():
        encoder = Bert(num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=32, init_stddev=0.1)
        return Experiment(
            task=Pretraining(Path({corpus!r}), valid_limit=64),
            learner=Multitask(encoder, {{"mlm": Mlm(max_predictions=5), "nsp": Nsp()}}),
            optimizer=BertAdam(learning_rate=1e-2),
            steps={steps},
            batch_size=64,
            eval_batch_size=64,
            log_every=1,
            eval_every={evaluate_every},
            checkpoint_every={checkpoint_every},
            best_metric="valid/mlm/loss",
        )

    if __name__ == "__main__":
        train.Logger = PacedLogger
        train.main(config)
'''


@pytest.fixture(scope="module")
def program(tiny_corpus, tmp_path_factory):
    """The experiment file."""
    path = tmp_path_factory.mktemp("experiments") / "tiny.py"
    text = textwrap.dedent(PROGRAM).format(
        corpus=str(tiny_corpus), steps=STEPS, checkpoint_every=CHECKPOINT_EVERY, evaluate_every=EVALUATE_EVERY
    )
    path.write_text(text)
    return path


def start(program, workdir, pause=0.0):
    """The command, the same every time; its progress comes line by line, and so do its errors.

    A pause (seconds) at every line of metrics lets a signal meet the run where it is meant to, however late it comes.
    """
    return subprocess.Popen(
        [sys.executable, program, "--workdir", workdir],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1", "PAUSE": str(pause)},
    )


def read_until(process, step):
    """Waits until the process has said that it has done a step; returns what it has said."""
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(f"{step}/{STEPS} "):
            return said
    raise AssertionError(f"the process ended before step {step}:\n{''.join(said)}")


def finish(process):
    """Waits for the end: exit status and the rest of what was said."""
    said = process.communicate(timeout=300)[0]
    return process.returncode, said


def checkpoints(workdir):
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


@pytest.fixture(scope="module")
def straight(program, tmp_path_factory):
    """The workdir of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    code, said = finish(start(program, workdir))
    assert code == 0, said
    assert checkpoints(workdir)[-1] == STEPS
    return workdir


def assert_the_same_run(workdir, straight):
    """Parameters of the last and of the best checkpoint to the bit; each step's metrics once, equal but for times."""
    for step in (None, "best"):
        got, wanted = (restore_params(folder / "checkpoints", step) for folder in (workdir, straight))
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    assert checkpoints(workdir) == checkpoints(straight)
    lines = metrics(workdir)
    assert lines == metrics(straight)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, STEPS + 1))
    evaluated = [line["step"] for line in lines if "valid/mlm/loss" in line]
    assert evaluated == list(range(EVALUATE_EVERY, STEPS + 1, EVALUATE_EVERY))


def metrics(workdir):
    """(step, metrics) of every line, without what depends on the clock."""
    clock = ("time", "train/examples_per_second", "train/tokens_per_second", "train/mfu")
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


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
    code, said = finish(start(program, workdir))
    assert code == 0 and f"continues after step {saved}\n" in said, said
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
    code, said = finish(start(program, workdir))
    assert code == 0 and f"continues after step {saved}\n" in said, said
    assert_the_same_run(workdir, straight)

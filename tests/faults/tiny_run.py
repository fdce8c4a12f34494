"""A tiny pre-training as an experiment file of its own, to be run, stopped and broken in real processes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np

from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = '''
    """A tiny pre-training with dropout, new masks at every visit, and several epochs."""

    import os
    import time
    from pathlib import Path

    from bert_jax import members, train
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
            time.sleep(float(os.environ.get("PAUSE", 0)))

    def config():
        encoder = Bert(num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=32, init_stddev=0.1)
        return Experiment(
            task=Pretraining(Path({corpus!r}), valid_limit=64),
            learner=Multitask(encoder, {{"mlm": Mlm(max_predictions=5), "nsp": Nsp()}}),
            optimizer=BertAdam(learning_rate=1e-2, eps=1e-3),
            steps={steps},
            batch_size=64,
            eval_batch_size=64,
            log_every=1,
            eval_every={eval_every},
            checkpoint_every={checkpoint_every},
            best_metric="valid/mlm/loss",
        )

    if __name__ == "__main__":
        members.Logger = PacedLogger
        if "FAULT" in os.environ:
            exec(os.environ["FAULT"])
        train.main(config)
'''


def write_program(folder: Path, corpus: Path, steps: int, checkpoint_every: int, eval_every: int) -> Path:
    """The experiment file."""
    path = folder / "tiny.py"
    text = textwrap.dedent(PROGRAM)
    path.write_text(
        text.format(corpus=str(corpus), steps=steps, checkpoint_every=checkpoint_every, eval_every=eval_every)
    )
    return path


def start(program: Path, workdir: Path, *flags: str, pause: float = 0.0, fault: str = "", **environment: str):
    """The command, the same every time; its progress comes line by line, and so do its errors.

    A pause (seconds) at every line of metrics lets a signal meet the run where it is meant to, however late it comes.
    `fault` is Python that breaks something in the process before it trains.
    """
    own = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PAUSE": str(pause)} | environment
    if fault:
        own["FAULT"] = textwrap.dedent(fault)
    return subprocess.Popen(
        [sys.executable, program, "--workdir", workdir, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | own,
    )


def read_until(process: subprocess.Popen, step: int) -> list[str]:
    """Waits until the process has said that it has done a step; returns what it has said."""
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(f"{step}/"):
            return said
    raise AssertionError(f"the process ended before step {step}:\n{''.join(said)}")


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Waits for the end: exit status and the rest of what was said."""
    said = process.communicate(timeout=300)[0]
    return process.returncode, said


def run(program: Path, workdir: Path, *flags: str, **options) -> str:
    """The command to its end, which must be a good one; returns what it said."""
    code, said = finish(start(program, workdir, *flags, **options))
    assert code == 0, said
    return said


def checkpoints(workdir: Path) -> list[int]:
    """The steps of its checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def metrics(workdir: Path) -> list[dict[str, float]]:
    """Every line of metrics, without what depends on the clock."""
    clock = ("time", "train/examples_per_second", "train/tokens_per_second", "train/mfu")
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def assert_the_same_run(workdir: Path, straight: Path) -> None:
    """Parameters of the last and of the best checkpoint to the bit; each step's metrics once, equal but for times."""
    for step in (None, "best"):
        got, wanted = (restore_params(folder / "checkpoints", step) for folder in (workdir, straight))
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    assert checkpoints(workdir) == checkpoints(straight)
    lines = metrics(workdir)
    assert lines == metrics(straight)
    trained = [line["step"] for line in lines if "train/loss" in line]
    assert trained == list(range(1, checkpoints(straight)[-1] + 1))

"""Pre-training in two phases, short rows before long ones: one command, and one folder with a workdir for each.

"Longer sequences are disproportionately expensive because attention is quadratic": nine steps of ten see rows of 128,
the last one rows of 512 (Devlin et al. 2018, appendix A.2; google-research/bert README, "Pre-training tips").
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import flax.linen as nn
import jax
import numpy as np
import tyro
from rich.console import Console

from bert_jax.data.workers import cores
from bert_jax.experiment import Experiment, check_record, one_line_errors
from bert_jax.members import RESULT_FILE
from bert_jax.pretrained import Pretrained
from bert_jax.resolve import Resolved, resolve
from bert_jax.train import train
from bert_jax.training.cpu_devices import split_cores
from bert_jax.training.curves import plot_curves
from bert_jax.training.log import METRICS_FILE, read_metrics
from bert_jax.training.processes import writes
from bert_jax.training.sharding import MeshShape

PHASE_1, PHASE_2 = "phase-1", "phase-2"


@dataclasses.dataclass(frozen=True)
class TwoPhases:
    """A run and its continuation on other data. The second phase takes `init_from` from the first, whatever it says;
    its `init_optimizer` keeps the optimizer, its `extend_positions` gives it a longer table."""

    phase_1: Experiment
    """on short rows"""
    phase_2: Experiment
    """on long rows, from the weights of phase 1"""
    joint_schedule: bool = False
    """one learning rate schedule over the steps of both, in place of one each"""

    def __post_init__(self):
        for name, phase in (("phase_1", self.phase_1), ("phase_2", self.phase_2)):
            if phase.seeds > 1:
                raise ValueError(f"{name} has {phase.seeds} seeds, but two phases are one run: give each a --workdir")
        if not self.joint_schedule:
            return
        if not (self.phase_1.steps and self.phase_2.steps):
            raise ValueError("a joint schedule is over steps: give steps, not epochs, in both phases")
        if self.phase_1.optimizer != self.phase_2.optimizer:
            raise ValueError(
                "a joint schedule is of one optimizer, and those of the phases differ: give both the same flags, or "
                "--no-joint-schedule"
            )

    def in_folder(self, workdir: Path) -> tuple[Experiment, Experiment]:
        """The experiments as they are run in `workdir`."""
        first, second = self.phase_1, self.phase_2
        second = dataclasses.replace(second, init_from=workdir / PHASE_1, processes=first.processes)
        if self.joint_schedule:
            whole = dataclasses.replace(first.optimizer, schedule_steps=first.steps + second.steps)
            first = dataclasses.replace(first, optimizer=whole)
            second = dataclasses.replace(second, optimizer=dataclasses.replace(whole, schedule_start=first.steps))
        return first, second


def parse(config: Callable[[], TwoPhases], args: list[str] | None = None) -> tuple[Path, TwoPhases]:
    """Workdir and phases from the command line; flags override the numbers of `config()`."""

    @dataclasses.dataclass(frozen=True)
    class Run:
        workdir: Path
        """folder of both phases: a new one, or that of an interrupted run"""
        phases: Annotated[TwoPhases, tyro.conf.arg(name="")] = dataclasses.field(default_factory=config)

    run = tyro.cli(Run, args=args, description=sys.modules[config.__module__].__doc__)
    return run.workdir, run.phases


def main(config: Callable[[], TwoPhases]) -> None:
    """Runs an experiment file of two phases: `python experiments/NAME.py --workdir DIR [--phase-1.flag value ...]`.

    The flags of each phase are those of an experiment; `--phase-1.processes` are for both. Bad input of either ends
    with one line before the first begins; `python -X dev` shows where it was found.
    """
    with one_line_errors():
        workdir, phases = parse(config)
        both = (phases.phase_1, phases.phase_2)
        joined = both[0].processes.join()
        if all(phase.mesh == MeshShape() for phase in both) and not joined:
            split_cores(cores(), 1, *(size for phase in both for size in (phase.batch_size, phase.eval_batch_size)))
        train_phases(phases, workdir)


def train_phases(phases: TwoPhases, workdir: Path) -> dict[str, float]:
    """Trains both phases, or continues in the one that was interrupted; returns the last metrics of the second.

    Writes `metrics.jsonl` and `curves.png` of both, steps counted through. Raises what `train` raises, for either phase
    before the first begins.
    """
    workdir = Path(workdir)
    if (workdir / "config.json").exists():
        raise ValueError(f"{workdir} is the workdir of a single run: take another --workdir for two phases")
    first, second = phases.in_folder(workdir)
    run = resolve(first)
    resolve(second, _weights_to_come(run))
    if not _finished(workdir / PHASE_1, first):
        train(first, workdir / PHASE_1)
        jax.clear_caches()  # phase 2 has other shapes, and what was compiled takes memory
    elif writes():
        Console().print(f"{workdir / PHASE_1} is finished: goes on with {PHASE_2}", markup=False)
    metrics = train(second, workdir / PHASE_2)
    if writes():
        join_metrics(workdir, run.steps)
        plot_curves({workdir.name: workdir / METRICS_FILE}, workdir / "curves.png")
    return metrics


def join_metrics(workdir: Path, steps: int) -> None:
    """Writes the metrics of both phases as those of one run, of which the first has `steps`."""
    entries = read_metrics(workdir / PHASE_1 / METRICS_FILE)
    entries += [entry | {"step": entry["step"] + steps} for entry in read_metrics(workdir / PHASE_2 / METRICS_FILE)]
    (workdir / METRICS_FILE).write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def _finished(workdir: Path, experiment: Experiment) -> bool:
    """Whether the run is complete. Raises ValueError where the workdir is that of another experiment."""
    if not (workdir / RESULT_FILE).exists():
        return False
    check_record(workdir / "config.json", experiment, workdir)
    return True


def _weights_to_come(run: Resolved) -> Pretrained:
    """What phase 1 will leave, with zeros that take no memory for weights: to check phase 2 against."""
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), nn.unbox(run.abstract))
    return Pretrained(run.learner, zeros, run.tokenizer)

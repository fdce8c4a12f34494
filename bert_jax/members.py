"""The runs that one program trains: one, or the same experiment with several seeds, each in a workdir of its own."""

import dataclasses
import datetime
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from bert_jax.data.loader import TrainingBatches
from bert_jax.experiment import ENVIRONMENT_FILE, claim_workdir, write_json
from bert_jax.pretrained import write_learner
from bert_jax.resolve import Resolved
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.checksums import put_damaged_aside
from bert_jax.training.health import Health, Stuck, degenerate, is_loss
from bert_jax.training.log import METRICS_FILE, Logger, read_metrics
from bert_jax.training.meter import Reading
from bert_jax.training.processes import wait_for_all, writes
from bert_jax.training.step import State
from bert_jax.training.workdir_lock import WorkdirLock

RESULT_FILE = "result.json"
SEEDS_FILE = "seeds.json"


class Members:
    """One run in `workdir`, or several in `workdir/seed-<seed>`: checkpoints, metrics and results of each.

    Every folder of a member is a complete workdir, as if it had been trained alone: it can be opened and evaluated.
    The folder above them has the means of the metrics, and at the end `seeds.json`.

    Args:
        run, workdir: of the experiment.
        baselines: of every evaluation.
        signs: what its training loss should not stay at.
    """

    def __init__(self, run: Resolved, workdir: Path, baselines: dict[str, dict[str, float]], signs: Sequence[Stuck]):
        experiment, self._run, self.workdir, self._baselines = run.experiment, run, workdir, baselines
        self.seeds = range(experiment.seed, experiment.seed + experiment.seeds)
        self._alone = len(self.seeds) == 1
        self.workdirs = [workdir if self._alone else workdir / f"seed-{seed}" for seed in self.seeds]
        best = experiment.best_metric or None
        self._warnings: list[str] = []
        with ExitStack() as opening:
            if writes():
                self._claim(opening)
                self._warnings = put_damaged_aside([folder / "checkpoints" for folder in self.workdirs])
            wait_for_all("workdir")
            self.checkpoints = [
                Checkpoints(
                    folder / "checkpoints",
                    keep=experiment.keep if self._alone else max(2, experiment.keep),  # see `save`
                    best=best,
                    mode="min" if best and is_loss(best) else "max",
                )
                for folder in self.workdirs
            ]
            self._open = opening.pop_all()
        self._healths = [Health(signs) for _ in self.seeds]
        self._faults: list[str | None] = [None] * len(self.seeds)

    def _claim(self, opening: ExitStack) -> None:
        """Makes the workdirs those of the experiment, or finds that they are, and keeps other runs out."""
        experiment = self._run.experiment
        claim_workdir(self.workdir, experiment)
        opening.enter_context(WorkdirLock(self.workdir))
        claim_workdir(self.workdir, experiment)  # another may have been claiming it at the same time
        for seed, folder in zip(self.seeds, self.workdirs, strict=True):
            claim_workdir(folder, dataclasses.replace(experiment, seed=seed, seeds=1))
            self._run.tokenizer.save(folder / "tokenizer")
            if not self._alone:
                opening.enter_context(WorkdirLock(folder))
            write_learner(folder, self._run.learner)

    def start(self, step: int) -> None:
        """Opens the logs of a run that goes on after `step`."""
        total = self._run.steps
        self._log = self._open.enter_context(Logger(self.workdir, total, step))
        own = [
            self._open.enter_context(Logger(folder, total, step, console=False))
            for folder in ([] if self._alone else self.workdirs)
        ]
        self._logs = own or [self._log]
        for warning in self._warnings:
            self._log.warn(warning)
        for checkpoints in self.checkpoints:
            self._open.enter_context(checkpoints)
        limit = self._run.experiment.max_skipped_in_a_row
        for i, folder in enumerate(self.workdirs if step else ()):  # what an earlier process has seen
            lost = (e for e in read_metrics(folder / METRICS_FILE) if e.get("train/skipped_in_a_row", 0) >= limit)
            said = (f"{limit} updates in a row were skipped, as logged at step {entry['step']}" for entry in lost)
            self._faults[i] = next(said, None)

    def __enter__(self) -> "Members":
        return self

    def __exit__(self, *error) -> None:
        self._open.__exit__(*error)

    @property
    def latest_step(self) -> int | None:
        """The latest step that all of them have saved; None before the first."""
        common = set.intersection(*(set(checkpoints.steps()) for checkpoints in self.checkpoints))
        return max(common, default=None)

    def message(self, text: str) -> None:
        self._log.message(text)

    def trained(self, step: int, readings: Sequence[Reading]) -> None:
        """Logs the metrics of training up to `step`, and warns of what looks wrong.

        Raises FloatingPointError where the one run, or each of several, has skipped too many updates in a row. Raises
        OSError where the last checkpoint could not be saved.
        """
        for checkpoints in self.checkpoints:
            checkpoints.check()
        of_runs = []
        for i, reading in enumerate(readings):
            values = {f"train/{name}": value for name, value in reading.values.items()}
            of_runs.append(values)
            if self._faults[i]:
                continue
            warnings = [reading.skipped] if reading.skipped else []
            if reading.fault:
                self._faults[i] = f"{reading.fault}; it is in {self._keep_batch(i, reading.fault.step)}"
                warnings = [] if self._alone else [self._faults[i]]
            for warning in [*warnings, *self._healths[i].check(step, values)]:
                self._log.warn(warning if self._alone else f"seed {self.seeds[i]}: {warning}")
        self._write(step, of_runs)
        if all(self._faults):
            raise FloatingPointError(self._faults[0] if self._alone else f"every seed: {'; '.join(self._faults)}")

    def _keep_batch(self, i: int, step: int) -> Path:
        """Writes the batch of `step` of run i, as it is before masking, for `numpy.load`; returns where."""
        path = self.workdirs[i] / f"nonfinite-step-{step}.npz"
        if writes():
            order = TrainingBatches(self._run.train_source, self._run.experiment.batch_size, self.seeds[i])
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.savez(file, **order[step - 1])
            temporary.rename(path)
        return path

    def evaluated(self, step: int, of_runs: Sequence[Mapping[str, float]]) -> None:
        """Logs the metrics of an evaluation."""
        self._write(step, of_runs)

    def _write(self, step: int, of_runs: Sequence[Mapping[str, float]]) -> None:
        for log, values in zip(self._logs, of_runs, strict=True):
            log.log(step, values)
        if not self._alone:
            names = dict.fromkeys(name for values in of_runs for name in values)  # not all have skipped steps
            means = {name: _finite_mean([values.get(name, 0.0) for values in of_runs]) for name in names}
            self._log.log(step, means)

    def save(self, step: int, state: State, evaluated: Sequence[Mapping[str, float]], split: Any) -> None:
        """Starts to save what each run has; `split(state, i)` is that of run i.

        Before the first of them begins a step, all have finished the one before, and of several runs each keeps two: so
        there is always a step that all have, whenever the process is killed.
        """
        self.wait()
        for i, checkpoints in enumerate(self.checkpoints):
            own = state if self._alone else split(state, i)
            checkpoints.save(step, own, evaluated[i] if evaluated else None)

    def wait(self) -> None:
        """Returns when all that was saved is on disk. Raises OSError if that failed."""
        for checkpoints in self.checkpoints:
            checkpoints.wait()

    def finish(self, results: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Writes `result.json` of each run, and of several the table of them all; returns the means of the metrics."""
        if not writes():
            return {name: _finite_mean([values[name] for values in results]) for name in results[0]}
        run, seconds = self._run, seconds_of(self.workdir)
        leaves = jax.tree.leaves(nn.unbox(run.abstract))
        sizes = {"parameters": sum(leaf.size for leaf in leaves), "seconds": seconds}
        records = [
            write_result(run, folder, seed, values, self._baselines, fault, **sizes)
            for folder, seed, values, fault in zip(self.workdirs, self.seeds, results, self._faults, strict=True)
        ]
        if self._alone:
            if records[0]["degenerate"]:
                self._log.warn(records[0]["degenerate"])
            return dict(results[0])
        for line in write_seeds(self.workdir, records).splitlines():
            self._log.message(line)
        return {name: _finite_mean([values[name] for values in results]) for name in results[0]}


def write_result(
    run: Resolved,
    folder: Path,
    seed: int,
    values: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
    fault: str | None,
    parameters: int,
    seconds: float,
) -> dict[str, Any]:
    """Writes the result of a finished run, from which reports are made, and returns it.

    Args:
        run, folder, seed: what was trained, its workdir with the log, its seed.
        values: metrics of the last evaluation.
        baselines: of every evaluation.
        fault: says where the loss was not finite; None if it always was.
        parameters: how many.
        seconds: of training and evaluation.
    """
    record = {
        "name": getattr(run.experiment.task, "name", ""),
        "seed": seed,
        "step": run.steps,
        "metrics": {name: float(value) if math.isfinite(value) else None for name, value in values.items()},
        "best": _best_of(folder, run.experiment.best_metric),
        "baselines": baselines,
        "degenerate": fault or degenerate(values, baselines),
        "parameters": parameters,
        "train_examples": len(run.train_source),
        "eval_examples": {name: len(source) for name, source in run.evaluations.items()},
        "seconds": round(seconds, 1),
    }
    write_json(folder / RESULT_FILE, record)
    return record


def _best_of(workdir: Path, best: str) -> dict[str, Any] | None:
    """The logged metrics of the evaluation with the best `best`, of equals the last, as of the checkpoints; that before
    the first step has none."""
    entries = [e for e in read_metrics(workdir / METRICS_FILE) if e["step"] and e.get(best) is not None]
    entry = (min if is_loss(best) else max)(reversed(entries), key=lambda entry: entry[best], default=None)
    return entry and {name: value for name, value in entry.items() if name != "time"}


def seconds_of(workdir: Path) -> float:
    """What a run took: of each process that worked on it, from its start to the last line it logged that was kept."""
    lines = (workdir / ENVIRONMENT_FILE).read_text(encoding="utf-8").splitlines()
    starts = [datetime.datetime.fromisoformat(json.loads(line)["time"]).timestamp() for line in lines]
    times = [entry["time"] for entry in read_metrics(workdir / METRICS_FILE)]
    spans = itertools.pairwise([*starts, math.inf])
    return sum(max((t for t in times if begin <= t < end), default=begin) - begin for begin, end in spans)


def write_seeds(folder: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Writes the summary of several results beside their folders, as JSON and as a table; returns the table."""
    summary = summarise([record["seed"] for record in records], records)
    write_json(folder / SEEDS_FILE, summary)
    table = seeds_table(summary)
    (folder / "seeds.md").write_text(table + "\n", encoding="utf-8")
    return table


def summarise(seeds: list[int], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, sample standard deviation (n - 1), best and every value of each metric; degenerate runs count, by name."""
    metrics = {}
    for name in records[0]["metrics"]:
        values = [record["metrics"][name] for record in records]
        finite = [value for value in values if value is not None]
        metrics[name] = {
            "mean": float(np.mean(finite)) if finite else None,
            "std": float(np.std(finite, ddof=1)) if len(finite) > 1 else None,
            "best": (min if is_loss(name) else max)(finite, default=None),
            "values": values,
        }
    reasons = {str(seed): record["degenerate"] for seed, record in zip(seeds, records, strict=True)}
    return {"seeds": seeds, "metrics": metrics, "degenerate": {s: reason for s, reason in reasons.items() if reason}}


def seeds_table(summary: Mapping[str, Any]) -> str:
    """The summary of several seeds as a Markdown table."""
    header = ["metric", "mean", "std", "best", *(f"seed {seed}" for seed in summary["seeds"])]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, values in summary["metrics"].items():
        cells = [values["mean"], values["std"], values["best"], *values["values"]]
        lines.append("| " + " | ".join([name, *("-" if cell is None else f"{cell:.4f}" for cell in cells)]) + " |")
    lines += [f"\nseed {seed} is degenerate: {reason}" for seed, reason in summary["degenerate"].items()]
    return "\n".join(lines)


def _finite_mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan

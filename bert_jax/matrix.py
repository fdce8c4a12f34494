"""Many runs in one command: pre-training variants x tasks x seeds, or the cells of a grid, and the table they make.

A run that is finished (its `result.json` is there) is not trained again, so that the same command continues after an
interruption. What a cell was made by is recorded beside its folder, as `NAME.json`; other settings are an error.
"""

import csv
import io
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from bert_jax.experiment import Experiment, check_record, encode, write_json
from bert_jax.members import RESULT_FILE
from bert_jax.resolve import resolve
from bert_jax.train import train
from bert_jax.training.health import is_loss

PRETRAINING = "pretrain"


@dataclass(frozen=True)
class Task:
    """A column of the table."""

    fine_tuning: Callable[[Path], Experiment]
    """from the folder of a pre-training to what is done with it; its `best_metric` is what the table reports, of the
    last evaluation"""
    published: Mapping[str, float] = field(default_factory=dict)
    """by variant, in percent: what others report"""


@dataclass(frozen=True)
class Claim:
    """What is said of two variants: that the first is better (>), or that they are equally good (=)."""

    first: str
    relation: Literal[">", "="]
    second: str
    source: str
    """who says so"""


@dataclass(frozen=True)
class Matrix:
    """Every variant is pre-trained once and fine-tuned on every task with every seed."""

    variants: Mapping[str, Experiment]
    tasks: Mapping[str, Task]
    claims: Sequence[Claim] = ()
    seeds: int = 3

    def __post_init__(self):
        if unknown := {name for claim in self.claims for name in (claim.first, claim.second)} - set(self.variants):
            raise ValueError(f"claims about {', '.join(sorted(unknown))}; the variants are {', '.join(self.variants)}")
        if PRETRAINING in self.tasks:
            raise ValueError(f"a task cannot be called {PRETRAINING!r}: its folder would be that of the pre-training")


@dataclass(frozen=True)
class Cell:
    """One entry of a table: an experiment, where it runs, and the metric of its results that counts."""

    experiment: Experiment
    workdir: Path
    metric: str = ""

    @property
    def folders(self) -> list[Path]:
        """Of its runs, a seed each."""
        first, count = self.experiment.seed, self.experiment.seeds
        return [self.workdir / f"seed-{seed}" for seed in range(first, first + count)] if count > 1 else [self.workdir]

    def results(self) -> list[dict[str, Any]]:
        """The `result.json` of every run; empty until all are finished."""
        files = [folder / RESULT_FILE for folder in self.folders]
        return (
            [json.loads(file.read_text(encoding="utf-8")) for file in files] if all(f.exists() for f in files) else []
        )

    def values(self) -> list[float]:
        """The metric of every run; NaN of one that diverged, empty until all are finished."""
        found = [result["metrics"][self.metric] for result in self.results()]
        return [math.nan if value is None else value for value in found]

    def claim(self) -> None:
        """Records the experiment beside its workdir. Raises ValueError where another one has been recorded."""
        path = self.workdir.with_name(f"{self.workdir.name}.json")
        if path.exists():
            check_record(path, self.experiment, self.workdir)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, encode(self.experiment))


def run_matrix(matrix: Matrix, workdir: Path, only: Collection[str] = (), console: Console | None = None) -> None:
    """Trains what is not finished, variant by variant, and writes `table.md`, `table.csv` and `table.png`.

    A pre-training goes into `workdir/pretrain/VARIANT`, a fine-tuning into `workdir/TASK/VARIANT`. The same command
    continues after an interruption. Several processes can work on one workdir, each on variants of its own.

    Args:
        only: variants to train; all if empty. The table has all that are finished.

    Raises ValueError and FileNotFoundError for bad input before anything is trained.
    """
    if unknown := set(only) - set(matrix.variants):
        raise ValueError(f"no variants {', '.join(sorted(unknown))}; there are {', '.join(matrix.variants)}")
    console = console or Console()
    pretraining, cells = cells_of(matrix, workdir)
    wanted = [name for name in matrix.variants if not only or name in only]
    order = [cell for name in wanted for cell in (pretraining[name], *(cells[task, name] for task in matrix.tasks))]
    _check(matrix, pretraining, order)
    failed = train_cells(order, console)
    write_tables(matrix, workdir, console)
    for folder, reason in failed.items():
        console.print(f"{folder} has no result: {reason}", style="bold red", markup=False)


def cells_of(matrix: Matrix, workdir: Path) -> tuple[dict[str, Cell], dict[tuple[str, str], Cell]]:
    """The pre-trainings by variant, and the fine-tunings by (task, variant)."""
    pretraining = {name: Cell(experiment, workdir / PRETRAINING / name) for name, experiment in matrix.variants.items()}
    cells = {}
    for (task, column), (name, start) in itertools.product(matrix.tasks.items(), pretraining.items()):
        experiment = replace(column.fine_tuning(start.workdir), seeds=matrix.seeds)
        if not experiment.best_metric:
            raise ValueError(f"the fine-tuning of {task} has no best_metric: it is what the table reports")
        cells[task, name] = Cell(experiment, workdir / task / name, experiment.best_metric)
    return pretraining, cells


def _check(matrix: Matrix, pretraining: Mapping[str, Cell], order: Sequence[Cell]) -> None:
    """Opens what the runs will read, so that a wrong path does not show after hours."""
    unfinished = [cell for cell in order if not cell.results()]
    tokenizer = None
    for cell in unfinished:
        if cell in pretraining.values():
            tokenizer = resolve(cell.experiment).tokenizer
    tokenizer = tokenizer or next(iter(matrix.variants.values())).task.tokenizer()
    for task in {cell.experiment.task.name: cell.experiment.task for cell in unfinished if cell.metric}.values():
        task.train(tokenizer)
        task.evaluations(tokenizer)


def train_cells(cells: Sequence[Cell], console: Console) -> dict[Path, str]:
    """Trains, in order, the cells that are not finished; returns what went wrong, by workdir.

    A run whose loss is no number ends that cell only, and those that start from it. Raises what `train` raises else.
    """
    for cell in cells:
        cell.claim()
    began, trained, failed = time.monotonic(), 0, {}
    waiting = [cell for cell in cells if not cell.results()]
    console.print(f"{len(cells)} cells, {len(cells) - len(waiting)} of them finished already")
    for cell in waiting:
        minutes = (time.monotonic() - began) / 60
        console.rule(f"{cell.workdir}: {trained + 1} of {len(waiting)}, after {minutes:.1f} min")
        trained += 1
        if cell.experiment.init_from in failed:
            failed[cell.workdir] = f"{cell.experiment.init_from} diverged"
            continue
        try:
            train(cell.experiment, cell.workdir)
        except FloatingPointError as error:
            failed[cell.workdir] = str(error)
            console.print(f"{cell.workdir} diverged: {error}", style="bold red", markup=False)
        jax.clear_caches()  # no run has the functions of another, and what was compiled takes memory
    return failed


# ---- what is reported --------------------------------------------------------------------------------------------


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation (n - 1), NaN of fewer than two."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The difference of two means, and half the width of its 95 % interval after Welch; NaN of a single value."""
    a, b = np.asarray(first), np.asarray(second)
    if min(len(a), len(b)) < 2:
        return float(a.mean() - b.mean()), math.nan
    parts = np.array([np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)])
    if not parts.any():  # seeds that agree to the last digit
        return float(a.mean() - b.mean()), 0.0
    freedom = parts.sum() ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    return float(a.mean() - b.mean()), float(scipy.stats.t.ppf(0.975, freedom) * math.sqrt(parts.sum()))


def verdict(claim: Claim, first: Sequence[float], second: Sequence[float], less_is_better: bool = False) -> str:
    """Whether the results of two variants bear a claim out, in words: a difference counts where the 95 % interval that
    the seeds give it leaves out 0. Seeds of fine-tuning do not show how much a second pre-training would differ."""
    mean, spread = difference(second, first) if less_is_better else difference(first, second)
    if math.isnan(mean) or math.isnan(spread):
        return "not decided: one seed, or a run that diverged"
    said = f"{_shown(mean, less_is_better, '+')} ± {_shown(spread, less_is_better)}"
    if claim.relation == "=":
        return f"not contradicted: {said}" if abs(mean) <= spread else f"does not hold: {said}"
    if abs(mean) <= spread:
        return f"not decided: {said}"
    return f"holds: {said}" if mean > 0 else f"the reverse holds: {said}"


def write_tables(matrix: Matrix, workdir: Path, console: Console | None = None) -> str:
    """Writes the table of what is finished as Markdown, CSV and picture; returns the Markdown."""
    pretraining, cells = cells_of(matrix, workdir)
    values = {key: found for key, cell in cells.items() if (found := cell.values())}
    text = "\n\n".join(
        part
        for part in (
            _results_table(matrix, cells, values),
            _claims_table(matrix, cells, values),
            _pretraining_table(pretraining),
            _degenerate(cells),
        )
        if part
    )
    workdir.mkdir(parents=True, exist_ok=True)
    _write(workdir / "table.md", text + "\n")
    _write(workdir / "table.csv", _csv(matrix, cells, values))
    if values:
        _plot(matrix, cells, values, workdir / "table.png")
    if console is not None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)
    return text


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the first column to the left, the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: float, loss: bool, sign: str = "") -> str:
    """A loss in nats, any other metric in percent."""
    return f"{value:{sign}.4f}" if loss else f"{100 * value:{sign}.1f}"


def _entry(values: Sequence[float], loss: bool) -> str:
    mean, std = mean_and_std(values)
    return _shown(mean, loss) + ("" if math.isnan(std) else f" ± {_shown(std, loss)}")


def _results_table(matrix: Matrix, cells: Mapping, values: Mapping) -> str:
    rows = []
    for name in matrix.variants:
        row = [name]
        for task, column in matrix.tasks.items():
            found = values.get((task, name))
            entry = _entry(found, is_loss(cells[task, name].metric)) if found else "-"
            there = column.published.get(name)
            row.append(entry if there is None else f"{entry} ({there:.1f})")
        rows.append(row)
    metrics = [cells[task, next(iter(matrix.variants))].metric.rpartition("/")[2] for task in matrix.tasks]
    header = ["", *(f"{task} {metric}" for task, metric in zip(matrix.tasks, metrics, strict=True))]
    note = f"Mean ± standard deviation over {matrix.seeds} seeds of fine-tuning; in brackets what the paper reports."
    return f"{note}\n\n{markdown(header, rows)}"


def _claims_table(matrix: Matrix, cells: Mapping, values: Mapping) -> str:
    rows = []
    for claim, task in itertools.product(matrix.claims, matrix.tasks):
        first, second = values.get((task, claim.first)), values.get((task, claim.second))
        if first and second:
            said = verdict(claim, first, second, is_loss(cells[task, claim.first].metric))
            rows.append([f"{claim.first} {claim.relation} {claim.second}", claim.source, task, said])
    note = (
        "Difference of the means with its 95 % interval over the seeds of fine-tuning (Welch); it counts where that "
        "leaves out 0. Each variant was pre-trained once."
    )
    return f"{note}\n\n{markdown(['claim', 'of', 'task', 'here'], rows)}" if rows else ""


def _pretraining_table(pretraining: Mapping[str, Cell]) -> str:
    found = {name: cell.results()[0] for name, cell in pretraining.items() if cell.results()}
    if not found:
        return ""
    metrics = list(dict.fromkeys(metric for result in found.values() for metric in result["metrics"]))
    rows = []
    for name, result in found.items():
        held_out = [result["metrics"].get(metric) for metric in metrics]
        entries = ["-" if v is None else _shown(v, is_loss(m)) for m, v in zip(metrics, held_out, strict=True)]
        rows.append([name, f"{result['parameters'] / 1e6:.2f}", f"{result['step']:,}", *entries])
    header = ["pre-training", "M parameters", "steps", *metrics]
    return markdown(header, rows)


def _degenerate(cells: Mapping[tuple[str, str], Cell]) -> str:
    return "\n".join(
        f"- {task}, {name}, seed {result['seed']}: {result['degenerate']}"
        for (task, name), cell in cells.items()
        for result in cell.results()
        if result["degenerate"]
    )


def _csv(matrix: Matrix, cells: Mapping, values: Mapping) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "task", "metric", "mean", "std", "published", "seeds"])
    for (task, name), found in values.items():
        column = matrix.tasks[task]
        there = column.published.get(name)
        numbers = ["" if math.isnan(value) else f"{value:.6f}" for value in (*mean_and_std(found), *found)]
        mean, std, *each = numbers
        writer.writerow(
            [name, task, cells[task, name].metric, mean, std, "" if there is None else there, " ".join(each)]
        )
    return text.getvalue()


def _plot(matrix: Matrix, cells: Mapping, values: Mapping, png: Path) -> None:
    """A panel for each task: every seed a point, the mean a line; the variants from top to bottom."""
    names = list(matrix.variants)
    figure = Figure(figsize=(1.6 + 3.2 * len(matrix.tasks), 1.2 + 0.4 * len(names)), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(matrix.tasks), squeeze=False, sharey=True).flat
    for ax, task in zip(axes, matrix.tasks, strict=True):
        scale = 1 if is_loss(cells[task, names[0]].metric) else 100
        for y, name in enumerate(names):
            found = [scale * value for value in values.get((task, name), [])]
            if found:
                mean, std = mean_and_std(found)
                ax.errorbar([mean], [y], xerr=None if math.isnan(std) else [std], fmt="|", markersize=14, color="black")
                ax.plot(found, [y] * len(found), "o", alpha=0.5)
        ax.set_title(f"{task} {cells[task, names[0]].metric.rpartition('/')[2]}", fontsize="medium")
        ax.grid(axis="x", alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    partial = png.with_name(f"{png.name}.{os.getpid()}.tmp")
    FigureCanvasAgg(figure).print_png(str(partial), metadata={"Software": None})
    partial.rename(png)


def _write(path: Path, text: str) -> None:
    """Whole or not at all, also where several processes write."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)

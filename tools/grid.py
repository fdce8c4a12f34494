"""Searches hyper-parameters: every combination of some flags of an experiment file, and a table of them all.

    python tools/grid.py experiments/sst2.py --workdir runs/sst2-grid \
        --grid optimizer.learning-rate=5e-5,3e-5,2e-5 batch-size=16,32 epochs=2,3,4 \
        -- --init-from runs/mini --seeds 5

What follows `--` are flags of the experiment that all combinations have. The paper's grid for fine-tuning is the one
above (Devlin et al. 2018, appendix A.3). The same command continues after an interruption; the best combination is that
with the best median over the seeds, of the last evaluation. It was chosen on the held-out set that it is reported on.
"""

import csv
import dataclasses
import importlib.util
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from bert_jax.experiment import Experiment, encode, one_line_errors, parse
from bert_jax.matrix import Cell, markdown, mean_and_std, train_cells
from bert_jax.resolve import resolve
from bert_jax.training.health import is_loss

# Flags that make no cells: the first is the grid's own, the others are what the median is taken over.
NOT_IN_A_GRID = ("workdir", "seed", "seeds")


@dataclass(frozen=True)
class Arguments:
    """Trains every combination of some flags of an experiment file; flags of all of them follow after `--`."""

    experiment: tyro.conf.Positional[Path]  # file with a function config()
    workdir: Path  # folder of the results; the same command continues in it
    grid: tuple[str, ...]  # flags and their values: NAME=VALUE,VALUE... as the experiment's help names them
    metric: str = ""
    """of the evaluations, what is the best, e.g. valid/classify/accuracy; the experiment's best_metric if not given"""


def axes_of(grid: Sequence[str], fixed: Sequence[str]) -> dict[str, list[str]]:
    """The values of each flag of the grid.

    Raises ValueError for what is no NAME=VALUE,VALUE..., a flag or value given twice, or one that all cells have.
    """
    axes: dict[str, list[str]] = {}
    given = {flag.partition("=")[0].removeprefix("--").replace("_", "-") for flag in fixed if flag.startswith("--")}
    for entry in grid:
        name, _, values = entry.partition("=")
        name = name.removeprefix("--").replace("_", "-")
        if not name or not all(values.split(",")):
            raise ValueError(f"--grid {entry}: expected NAME=VALUE,VALUE...")
        if name in NOT_IN_A_GRID:
            raise ValueError(f"--grid {entry}: {name} is no setting to search")
        if name in axes or name in given:
            raise ValueError(f"--grid {entry}: --{name} is given twice")
        axes[name] = values.split(",")
    return axes


def cells_of(
    config: Callable[[], Experiment], axes: dict[str, list[str]], fixed: Sequence[str], workdir: Path, metric: str
) -> dict[tuple[str, ...], Cell]:
    """A cell for each combination of values, its command line read.

    Raises ValueError where a value is none, or two combinations are one experiment; SystemExit, from the command line,
    for an unknown flag.
    """
    cells: dict[tuple[str, ...], Cell] = {}
    for values in itertools.product(*axes.values()):
        flags = [part for name, value in zip(axes, values, strict=True) for part in (f"--{name}", value)]
        name = ",".join(f"{name}={value}" for name, value in zip(axes, values, strict=True)).replace("/", "_")
        folder, experiment = parse(config, ["--workdir", str(workdir / name), *flags, *fixed])
        experiment = dataclasses.replace(experiment, best_metric=metric or experiment.best_metric)
        if not experiment.best_metric:
            raise ValueError(
                "the experiment has no best_metric: give --metric, what the best combination is the best in"
            )
        for others, cell in cells.items():
            if cell.workdir == folder or encode(cell.experiment) == encode(experiment):
                raise ValueError(f"{', '.join(others)} and {', '.join(values)} are the same experiment")
        cells[values] = Cell(experiment, folder, experiment.best_metric)
    return cells


def search(arguments: Arguments, fixed: Sequence[str], console: Console) -> tuple[str, ...]:
    """Trains what is not finished, writes `grid.md` and `grid.csv`, and returns the values of the best combination."""
    cells = cells_of(
        load_config(arguments.experiment),
        axes := axes_of(arguments.grid, fixed),
        fixed,
        arguments.workdir,
        arguments.metric,
    )
    if unfinished := [cell for cell in cells.values() if not cell.results()]:
        resolve(unfinished[0].experiment)
    failed = train_cells(list(cells.values()), console)
    found = {values: cell.values() for values, cell in cells.items() if cell.workdir not in failed}
    metric = next(iter(cells.values())).metric
    medians = {values: statistics.median(numbers) for values, numbers in found.items() if not any_nan(numbers)}
    if not medians:
        raise ValueError("every combination diverged: lower the learning rates")
    best = (min if is_loss(metric) else max)(medians, key=lambda values: medians[values])
    rows = []
    for values in cells:
        numbers = found.get(values)
        middle = f"{medians[values]:.4f}" if values in medians else "diverged"
        mean, std = mean_and_std(numbers) if values in medians else (math.nan, math.nan)
        entries = ["-" if math.isnan(value) else f"{value:.4f}" for value in (mean, std)]
        rows.append([*values, f"**{middle}**" if values == best else middle, *entries])
    header = [*axes, f"median {metric}", "mean", "std"]
    table = markdown(header, rows)
    (arguments.workdir / "grid.md").write_text(table + "\n", encoding="utf-8")
    with open(arguments.workdir / "grid.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *([cell.strip("*") for cell in row] for row in rows)])
    console.print(table, soft_wrap=True, markup=False, highlight=False)
    flags = " ".join(f"--{name} {value}" for name, value in zip(axes, best, strict=True))
    console.print(f"best of {len(cells)}: {flags}", markup=False, highlight=False)
    return best


def any_nan(numbers: Sequence[float]) -> bool:
    return any(math.isnan(number) for number in numbers)


def load_config(path: Path) -> Callable[[], Experiment]:
    """`config` of an experiment file. Raises FileNotFoundError, or ValueError where it has none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such experiment file")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the command line finds its docstring
    spec.loader.exec_module(module)
    if not callable(getattr(module, "config", None)):
        raise ValueError(f"{path} has no function config(): it is no experiment file")
    return module.config


def main() -> None:
    """Runs the command line; bad input ends with one line."""
    own, fixed = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, fixed = own[:at], own[at + 1 :]
    with one_line_errors():
        search(tyro.cli(Arguments, args=own), fixed, Console())


if __name__ == "__main__":
    main()

"""Runs as tables and a page of HTML: python tools/report.py RUN... --output FOLDER

Every finished workdir at or below the folders given is found; the seeds of one experiment are one row, whether they
were trained at once (`--seeds 5`) or one by one. Writes `report.md`, `report.csv` and `report.html`, which needs
nothing else, with published results of others beside. Unfinished runs are listed with the reason.

    python tools/report.py runs/glue --output runs/report
    python tools/report.py runs/sst2 runs/sst2-scratch --output runs/report --compare sst2 sst2-scratch
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from bert_jax.report import comparison, tables
from bert_jax.report.page import page
from bert_jax.report.runs import collect


@dataclass(frozen=True)
class Arguments:
    """Collects runs into report.md, report.csv and report.html."""

    runs: tyro.conf.Positional[tuple[Path, ...]]  # workdirs, folders of seeds, folders of runs at any depth
    output: Path  # folder of the report; an earlier report there is replaced
    compare: tuple[str, str] | None = None  # two variants, as the table calls them, or folders: paired tests
    metric: tuple[str, ...] = ()  # instead of the official one of each task, such as accuracy f1
    beside: tuple[str, ...] = ()  # models whose published results stand beside, such as "BERT mini"
    resamples: int = comparison.RESAMPLES  # draws of each test
    seed: int = 0  # of these draws
    title: str = "Report"


def report(arguments: Arguments, console: Console) -> None:
    """Collects, compares, writes and prints the table."""
    rows, left_out = collect(arguments.runs)
    if not rows:
        reasons = "\n  ".join(f"{item.folder}: {item.reason}" for item in left_out)
        raise ValueError(f"no finished run:\n  {reasons}")
    metrics = arguments.metric
    for metric in metrics:
        if not any(metric in row.metrics for row in rows):
            there = sorted({name for row in rows for name in row.metrics})
            raise ValueError(f"no run has the metric {metric!r}: there are {', '.join(there)}")
    grids = [tables.results(rows, metrics, arguments.beside)]
    if arguments.compare:
        draws = arguments.resamples, arguments.seed
        pairs = comparison.compare_variants(rows, *arguments.compare, metrics, *draws)
        grids.append(comparison.grid(pairs, *arguments.compare, *draws))
    grids += [tables.degenerate(rows), tables.left_out(left_out)]
    details = [tables.settings(rows), tables.other_metrics(rows)]
    known = [tables.known(*key) for key in dict.fromkeys((row.task, row.official) for row in rows)]
    texts = [tables.markdown(grid) for grid in [*grids, *details, *known] if grid.rows]
    files = {
        "report.md": "\n".join([f"# {arguments.title}\n", *texts]),
        "report.csv": tables.csv_table(rows, arguments.beside),
        "report.html": page(arguments.title, [*grids, *details], rows, metrics, arguments.beside),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (arguments.output / name).write_text(content, encoding="utf-8")
    for grid in grids:
        if grid.rows:
            console.print(tables.terminal(grid))
    console.print(f"written to {arguments.output}: {', '.join(files)}")


def main() -> int:
    """Runs the command line; exit code 2 means that the input was wrong, and says what to do."""
    try:
        report(tyro.cli(Arguments), Console())
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The tables of a report, as data, and as Markdown, CSV and text on a terminal."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.table
from rich.text import Text

from bert_jax.report.runs import LeftOut, Row, Summary, differing, is_share, model_of
from bert_jax.tasks.published import Published, published

# Settings that have a column of their own.
_COLUMNS = ("optimizer.learning_rate", "batch_size", "epochs", "steps", "init_from", "random_weights")
NONE = "-"


@dataclass(frozen=True)
class Cell:
    """Text, and where it leads."""

    text: str
    link: str = ""


Content = Cell | str | Sequence[Cell]  # of a cell: one, or several below each other


@dataclass(frozen=True)
class Grid:
    """A table: a title, the columns and the rows, and where the cells go."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Content, ...], ...]
    numbers: tuple[str, ...] = ()
    """columns that are set to the right"""
    notes: tuple[str, ...] = ()
    """what the numbers are, a paragraph each"""


NOTES = (
    "Results are in percent, but for losses, of the last evaluation on held-out examples. Mean and sample standard "
    "deviation (n - 1) are over the seeds; one seed has no deviation. The best is that of the seeds. Baseline: the "
    "best answer that ignores the input.",
    "Degenerate seeds (*) are in the mean and in the number of seeds; the mean without them stands behind.",
    "Published results are others', of the model and the split of the data that are named: read in the source, taken "
    "from a transcription of it, or written from memory.",
)


# ---- what is in them -------------------------------------------------------------------------------------------------


def results(rows: Sequence[Row], metrics: Sequence[str] = (), beside: Sequence[str] = ()) -> Grid:
    """A line for each task and variant: the official metric, or those of `metrics` that it has.

    Args:
        rows: of `runs.collect`.
        metrics: names such as f1; by default the official one of each task.
        beside: models whose published results stand beside; by default the first that is known of a task, which is
            the paper's, and the first on the same split of the data.
    """
    lines = []
    for row in rows:
        for metric in chosen(row, metrics):
            every, best = NONE, NONE
            summary = row.summary(metric)
            if summary:
                every = ", ".join(_of_seed(row, run, metric) for run in row.runs)
                best = number(metric, summary.best)
            lines.append(
                (row.task, _variant(row, rows), metric, spread(row, metric), best, every,
                 number(metric, row.baseline(metric)), _published_cell(row, metric, beside))
            )  # fmt: skip
    columns = ("task", "variant", "metric", "mean ± deviation", "best", "every seed", "baseline", "published")
    return Grid("Results", columns, tuple(lines), ("best", "baseline"), NOTES)


def chosen(row: Row, metrics: Sequence[str]) -> list[str]:
    """The metrics of a row that are asked for; the official one where none is."""
    return [name for name in row.metrics if name in metrics] if metrics else [row.official]


def other_metrics(rows: Sequence[Row]) -> Grid:
    """Every metric but the official one."""
    lines = [
        (row.task, _variant(row, rows), metric, spread(row, metric), number(metric, row.baseline(metric)))
        for row in rows
        for metric in list(row.metrics)[1:]
    ]
    columns = ("task", "variant", "metric", "mean ± deviation", "baseline")
    return Grid("Other metrics", columns, tuple(lines), ("baseline",))


def settings(rows: Sequence[Row]) -> Grid:
    """How each row was trained, and in which settings the rows differ."""
    differ, lines = differing(rows), []
    for row in rows:
        run, config = row.runs[0], row.runs[0].config
        others = {name: value for name, value in differ[row].items() if name not in _COLUMNS}
        lines.append(
            (
                row.task,
                _variant(row, rows),
                model_of(run),
                f"{run.result.get('parameters') or 0:,}",
                f"{run.result['train_examples']:,}",
                f"{run.result['eval_examples'].get(row.evaluation, 0):,}",
                f"{config.get('optimizer', {}).get('learning_rate', 0):g}",
                str(config.get("batch_size", NONE)),
                f"{config['epochs']:g}" if config.get("epochs") else NONE,
                f"{run.result['step']:,}",
                _seconds(row),
                ", ".join(f"{_short(name, others)} {_value(value)}" for name, value in others.items()) or NONE,
            )
        )
    columns = ("task", "variant", "from", "parameters", "training examples", "held out", "learning rate", "batch",
               "epochs", "steps", "seconds", "also differs")  # fmt: skip
    return Grid("Settings", columns, tuple(lines), columns[3:-1])


def degenerate(rows: Sequence[Row]) -> Grid:
    """The seeds that learned nothing or fell apart, with the mean of all seeds and that of the others."""
    lines = []
    for row in rows:
        for seed, reason in row.degenerate.items():
            with_all, without = (row.summary(row.official, degenerate=kept) for kept in (True, False))
            means = [plain(row.official, summary) for summary in (with_all, without)]
            lines.append((row.task, _variant(row, rows), str(seed), reason, *means))
    columns = ("task", "variant", "seed", "why", "mean of all seeds", "without the degenerate ones")
    return Grid("Degenerate seeds", columns, tuple(lines))


def left_out(found: Sequence[LeftOut]) -> Grid:
    """The workdirs that are in no table."""
    return Grid("Left out", ("workdir", "why"), tuple((str(item.folder), item.reason) for item in found))


def known(task: str, metric: str) -> Grid:
    """All published results of a task."""
    lines = tuple(
        (entry.model, entry.split, _percent(entry), Cell(entry.source, entry.link), entry.certainty)
        for entry in published(task, metric)
    )
    columns = ("model", "split", "result", "source", "certainty")
    return Grid(f"Published for {task}, {metric}", columns, lines, ("result",))


def spread(row: Row, metric: str) -> str:
    """Such as 63.10 ± 1.20 (5 seeds); with what it is without degenerate seeds, and how many have no result."""
    text = plain(metric, row.summary(metric))
    notes = []
    if row.degenerate:
        others = plain(metric, row.summary(metric, degenerate=False))
        notes.append(f"without {len(row.degenerate)} degenerate: {others}")
    lost = [run.seed for run in row.runs if row.value(run, metric) is None]
    if lost:
        notes.append(f"no number from seed {', '.join(map(str, lost))}")
    return "; ".join([text, *notes])


def plain(metric: str, summary: Summary | None) -> str:
    if summary is None:
        return NONE
    deviation = "" if summary.std is None else f" ± {number(metric, summary.std)}"
    count = len(summary.values)
    return f"{number(metric, summary.mean)}{deviation} ({count} seed{'s' if count > 1 else ''})"


def number(metric: str, value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}" if is_share(metric) else f"{value:.4f}"


def _of_seed(row: Row, run: Any, metric: str) -> str:
    return number(metric, row.value(run, metric)) + ("*" if run.result["degenerate"] else "")


def _published_cell(row: Row, metric: str, beside: Sequence[str]) -> Content:
    return [
        Cell(f"{_percent(entry)} {entry.model}, {entry.split} ({entry.source}; {entry.certainty})", entry.link)
        for entry in beside_it(row, metric, beside)
    ] or NONE


def beside_it(row: Row, metric: str, models: Sequence[str]) -> list[Published]:
    """The first published result of each of these models; without any, the first there is, and the first on the same
    split of the data."""
    entries = published(row.task, metric)
    if not models:
        split = "test" if re.search("test(?!a)", row.evaluation) else "dev"  # CoNLL calls its development set testa
        return list(dict.fromkeys(entries[:1] + [entry for entry in entries if entry.split == split][:1]))
    firsts = (next((entry for entry in entries if entry.model.lower() == model.lower()), None) for model in models)
    return [entry for entry in firsts if entry]


def _percent(entry: Published) -> str:
    return f"{entry.value:g}" if entry.std is None else f"{entry.value:g} ± {entry.std:g}"


def _variant(row: Row, rows: Sequence[Row]) -> str:
    """With the name of the held-out set, where a task has several."""
    several = len({other.evaluation for other in rows if other.task == row.task}) > 1
    return f"{row.variant}, {row.evaluation}" if several else row.variant


def _seconds(row: Row) -> str:
    """Seeds of one folder are trained at once: each result has the time of them all."""
    times = [run.result.get("seconds") or 0 for run in row.runs]
    if row.runs[0].group and len(times) > 1:
        return f"{max(times):,.0f} for {len(times)} seeds at once"
    return f"{sum(times) / len(times):,.0f}"


def _short(name: str, others: Mapping[str, Any]) -> str:
    """The last part of a dotted name, if that is clear."""
    last = name.rsplit(".", 1)[-1]
    return name if sum(other.rsplit(".", 1)[-1] == last for other in others) > 1 else last


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(_value, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


# ---- as text ---------------------------------------------------------------------------------------------------------


def lines_of(content: Content) -> Sequence[Cell]:
    """The lines of a cell."""
    return [Cell(content)] if isinstance(content, str) else [content] if isinstance(content, Cell) else content


def markdown(grid: Grid) -> str:
    """A title, a table and its notes."""

    def line(cell: Cell) -> str:
        text = re.sub(r"([|*_<\[\]])", r"\\\1", cell.text).replace("\n", " ")
        return f"[{text}]({cell.link})" if cell.link else text

    rule = ["---:" if column in grid.numbers else "---" for column in grid.columns]
    rows = [["<br>".join(map(line, lines_of(content))) for content in row] for row in grid.rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [grid.columns, rule, *rows])
    return "\n\n".join([f"## {grid.title}", table, *grid.notes]) + "\n"


def terminal(grid: Grid) -> rich.table.Table:
    """For a console, which is too narrow for what others published."""
    table = rich.table.Table(title=grid.title, title_justify="left")
    shown = [i for i, column in enumerate(grid.columns) if column != "published"]
    for i in shown:
        table.add_column(grid.columns[i], justify="right" if grid.columns[i] in grid.numbers else "left")
    for row in grid.rows:
        table.add_row(*(Text("\n".join(cell.text for cell in lines_of(row[i]))) for i in shown))
    return table


CSV_COLUMNS = (
    "task", "evaluation", "variant", "from", "metric", "official", "unit", "seeds", "mean", "std", "best",
    "values", "degenerate", "mean_without_degenerate", "std_without_degenerate", "baseline", "published_model",
    "published_split", "published", "published_std", "published_source", "published_certainty", "train_examples",
    "eval_examples", "steps", "parameters", "seconds", "learning_rate", "batch_size", "epochs", "differs", "folders",
)  # fmt: skip


def csv_table(rows: Sequence[Row], beside: Sequence[str] = ()) -> str:
    """A line for each task, variant and metric, with all digits; what there is none of is empty."""
    file, differ = io.StringIO(), differing(rows)
    writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for metric in row.metrics:
            writer.writerow(_csv_line(row, metric, differ[row], beside))
    return file.getvalue()


def _csv_line(row: Row, metric: str, differ: Mapping[str, Any], beside: Sequence[str]) -> dict[str, Any]:
    run, config = row.runs[0], row.runs[0].config
    every, without = row.summary(metric), row.summary(metric, degenerate=False)
    others = next(iter(beside_it(row, metric, beside)), None)
    values = {one.seed: row.value(one, metric) for one in row.runs}
    line = {
        "task": row.task,
        "evaluation": row.evaluation,
        "variant": row.variant,
        "from": model_of(run),
        "metric": metric,
        "official": metric == row.official,
        "unit": "%" if is_share(metric) else "",
        "seeds": len(row.runs),
        "values": " ".join(f"{seed}={'' if value is None else value}" for seed, value in values.items()),
        "degenerate": "; ".join(f"{seed}: {reason}" for seed, reason in row.degenerate.items()),
        "baseline": row.baseline(metric),
        "train_examples": run.result["train_examples"],
        "eval_examples": run.result["eval_examples"].get(row.evaluation),
        "steps": run.result["step"],
        "parameters": run.result.get("parameters"),
        "seconds": run.result.get("seconds"),
        "learning_rate": config.get("optimizer", {}).get("learning_rate"),
        "batch_size": config.get("batch_size"),
        "epochs": config.get("epochs") or None,
        "differs": "; ".join(f"{name}={_value(value)}" for name, value in differ.items()),
        "folders": " ".join(str(one.folder) for one in row.runs),
    }
    if every:
        line |= {"mean": every.mean, "std": every.std, "best": every.best}
    if without:
        line |= {"mean_without_degenerate": without.mean, "std_without_degenerate": without.std}
    if others:
        line |= {"published_model": others.model, "published_split": others.split, "published": others.value,
                 "published_std": others.std, "published_source": others.source,
                 "published_certainty": others.certainty}  # fmt: skip
    return line

"""A report as one page of HTML that needs nothing else: pictures are in it, and nothing is loaded."""

from collections.abc import Sequence
from html import escape

import numpy as np

from bert_jax.report import pictures, tables
from bert_jax.report.predictions import are_classes, are_numbers, classes_of, numbers_of, read_predictions, wanted
from bert_jax.report.runs import Row
from bert_jax.report.tables import Content, Grid

MANY_CLASSES = 25  # of a confusion matrix that can be read

CURVES = '<figcaption class="note">A colour a seed: pale in training, with marks held out.</figcaption>'

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1c1c1c; background: #fff;
  max-width: 1240px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
a { color: #1a4f8a; text-decoration: none; } a:hover { text-decoration: underline; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; margin: .4rem 0; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e3e3; }
th { background: #f4f4f4; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.confusion td, .confusion th { text-align: right; border: 1px solid #fff; min-width: 2.6rem; }
.confusion th[scope=row] { white-space: nowrap; }
figure { margin: .3rem 0; } figure svg { max-width: 100%; height: auto; }
.pair { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.note { color: #444; font-size: .88rem; max-width: 60rem; }
details { margin: .4rem 0; } summary { cursor: pointer; color: #225; }
"""


def page(
    title: str, grids: Sequence[Grid], rows: Sequence[Row], metrics: Sequence[str] = (), beside: Sequence[str] = ()
) -> str:
    """The tables that have rows, then a section a task: seeds as dots, curves, confusions and all that is published."""
    body = [f"<h1>{escape(title)}</h1>"]
    for grid in grids:
        if grid.rows:
            body.append(f"<h2>{escape(grid.title)}</h2>{table(grid)}")
            body += [f'<p class="note">{escape(note)}</p>' for note in grid.notes]
    for task in dict.fromkeys(row.task for row in rows):
        body.append(_section(task, [row for row in rows if row.task == task], metrics, beside))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def table(grid: Grid) -> str:
    """A table that scrolls by itself where the window is narrow."""
    right = [' class="number"' if column in grid.numbers else "" for column in grid.columns]
    head = "".join(f"<th{style}>{escape(name)}</th>" for name, style in zip(grid.columns, right, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{style}>{_cell(cell)}</td>" for cell, style in zip(row, right, strict=True)) + "</tr>"
        for row in grid.rows
    ]
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(content: Content) -> str:
    texts = [(escape(cell.text), escape(cell.link)) for cell in tables.lines_of(content)]
    return "<br>".join(f'<a href="{link}">{text}</a>' if link else text for text, link in texts)


def _section(task: str, rows: Sequence[Row], metrics: Sequence[str], beside: Sequence[str]) -> str:
    parts = [f"<h2>{escape(task)}</h2>"]
    several = len({row.evaluation for row in rows}) > 1
    labels = [f"{row.variant}, {row.evaluation}" if several else row.variant for row in rows]
    metric = (tables.chosen(rows[0], metrics) or [rows[0].official])[0]
    alike = [(row, label) for row, label in zip(rows, labels, strict=True) if metric in row.metrics]
    parts.append(f"<figure>{pictures.seed_spread(*zip(*alike, strict=True), metric, beside)}</figure>")
    for row, label in zip(rows, labels, strict=True):
        parts.append(f"<h3>{escape(label)}</h3>")
        drawn = pictures.curves(row, metric if metric in row.metrics else row.official)
        answers = _answers(row)
        figure = f"<figure>{drawn}{CURVES}</figure>" if drawn else '<p class="note">No curves were logged.</p>'
        parts.append(f'<div class="pair">{figure}{answers}</div>')
    known = tables.known(task, metric)
    if known.rows:
        parts.append(f"<details><summary>{escape(known.title)}</summary>{table(known)}</details>")
    return "\n".join(parts)


def _answers(row: Row) -> str:
    """What was answered for what was wanted, over all seeds; nothing for a task whose answers are no classes."""
    try:
        lines = [line for run in row.runs for line in read_predictions(run, row.evaluation)]
    except (OSError, ValueError):
        return ""
    if are_numbers(lines):
        return f"<figure>{pictures.scatter(*numbers_of(lines).T)}</figure>"
    if not are_classes(lines):
        return ""
    classes = classes_of(lines)
    if len(classes) > MANY_CLASSES:
        return f'<p class="note">{len(classes)} classes: too many for a confusion matrix.</p>'
    place = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), int)
    for label, line in zip(wanted(lines), lines, strict=True):
        counts[place[label], place[line["prediction"]]] += 1
    return confusion(classes, counts)


def confusion(classes: Sequence[str], counts: np.ndarray) -> str:
    """A matrix of counts, a line for each class that was wanted; the shade is the share of its line."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    lines = []
    for i, name in enumerate(classes):
        cells = ""
        for j, count in enumerate(counts[i]):
            hue = "64,124,196" if i == j else "214,98,60"
            cells += f'<td style="background:rgba({hue},{0.75 * shares[i, j]:.2f})">{count:,}</td>'
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<table class="confusion"><caption class="note">wanted (lines), answered (columns), all seeds</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )

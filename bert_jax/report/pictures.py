"""The pictures of a report as SVG: curves, the spread of the seeds, answers beside numbers."""

import io
import itertools
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bert_jax.report.runs import Row, in_percent, is_share
from bert_jax.report.tables import beside_it, number
from bert_jax.training.log import METRICS_FILE, read_metrics

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "svg.fonttype": "none",  # letters stay letters: small files, and the fonts of the page
}
_numbers = itertools.count()


def svg(figure: Figure) -> str:
    """A figure as an element of a page. Its names are its own: two pictures of one page must not share them."""
    file, salt = io.StringIO(), f"picture{next(_numbers)}"
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    element = file.getvalue()[file.getvalue().index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    names = set(re.findall(r'\bid="([^"]+)"', element))
    return re.sub(
        r'(\bid="|href="#|url\(#)([^")]+)',
        lambda match: match[1] + (f"{salt}-{match[2]}" if match[2] in names else match[2]),
        element,
    )


def curves(row: Row, metric: str) -> str | None:
    """Loss and `metric` over the steps, a colour a seed: pale in training, with marks held out; None without a log."""
    with matplotlib.rc_context(_STYLE):
        key = row.metrics[metric].removeprefix(f"{row.evaluation}/")
        loss = re.sub("[^/]+$", "loss", key)
        panels = list(dict.fromkeys([loss, key]))
        figure = Figure(figsize=(4.2 * len(panels), 2.7), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        drawn = 0
        for ax, panel in zip(axes, panels, strict=True):
            for color, run in enumerate(row.runs):
                drawn += _curve(ax, row, run, panel, f"C{color % 10}")
            base = row.runs[0].result["baselines"].get(row.evaluation, {}).get(panel)
            if base is not None:
                ax.axhline(in_percent(panel, float(base)), color="black", linestyle=":", linewidth=1)
                ax.annotate("baseline", (1, in_percent(panel, float(base))), xycoords=("axes fraction", "data"),
                            ha="right", va="bottom", fontsize=7)  # fmt: skip
            ax.set_title(f"{panel}, %" if is_share(panel) else panel)
            ax.set_xlabel("step")
            ax.grid(alpha=0.2)
        if not drawn:
            return None
        axes[-1].legend(fontsize=7, frameon=False, loc="best")
        return svg(figure)


def _curve(ax: Axes, row: Row, run, panel: str, color: str) -> int:
    """Draws the training and the held-out curve of a run; how many there are."""
    try:
        entries = read_metrics(run.folder / METRICS_FILE)
    except (FileNotFoundError, ValueError):
        return 0
    drawn = 0
    for part, style in (("train", {"alpha": 0.35, "linewidth": 0.8}), (row.evaluation, {"marker": "o", "zorder": 3})):
        points = [(entry["step"], entry[name]) for entry in entries if entry.get(name := f"{part}/{panel}") is not None]
        if points:
            steps, values = zip(*points, strict=True)
            label = f"seed {run.seed}" + (", degenerate" if run.result["degenerate"] else "")
            dashes = "--" if run.result["degenerate"] else "-"
            ax.plot(steps, [in_percent(panel, float(value)) for value in values], dashes, color=color, markersize=3,
                    label=label if part != "train" else None, **({"linewidth": 1.4} | style))  # fmt: skip
            drawn += 1
    return drawn


def seed_spread(rows: Sequence[Row], labels: Sequence[str], metric: str, beside: Sequence[str] = ()) -> str:
    """A dot a seed for each variant of a task, crosses for degenerate ones, a line at the mean, and the published
    results of the same metric that stand beside."""
    with matplotlib.rc_context(_STYLE):
        known = beside_it(rows[0], metric, beside)
        figure = Figure(figsize=(8.4, 0.9 + 0.44 * (len(rows) + len(known))), layout="constrained")
        ax = figure.subplots()
        names = []
        for y, (row, label) in enumerate(zip(rows, labels, strict=True)):
            names.append(label)
            for run in row.runs:
                value = row.value(run, metric)
                if value is not None:
                    bad = bool(run.result["degenerate"])
                    ax.plot(value, y, "x" if bad else "o", color="C3" if bad else "C0", markersize=6, alpha=0.75)
            summary = row.summary(metric)
            if summary:
                ax.plot([summary.mean] * 2, [y - 0.2, y + 0.2], color="black", linewidth=1.5)
                text = f"{number(metric, summary.mean)}"
                ax.annotate(text, (summary.mean, y - 0.2), ha="center", va="bottom", fontsize=7)
        for y, entry in enumerate(known, len(rows)):
            names.append(f"{entry.model}, {entry.split} ({entry.source})")
            ax.errorbar(entry.value, y, xerr=entry.std, fmt="D", color="0.45", markersize=5, capsize=2)
            ax.annotate(f"{entry.value:g}", (entry.value, y - 0.2), ha="center", va="bottom", fontsize=7, color="0.35")
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.8)
        ax.set_xlabel(f"{metric}, %" if is_share(metric) else metric)
        ax.margins(x=0.06)
        ax.grid(axis="x", alpha=0.25)
        return svg(figure)


def scatter(targets: Float[np.ndarray, " n"], answers: Float[np.ndarray, " n"]) -> str:
    """Answers of a regression over what was wanted."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.2, 2.9), layout="constrained")
        ax = figure.subplots()
        ax.plot(targets, answers, ".", alpha=max(0.08, min(0.6, 300 / len(targets))), markersize=4)
        ends = [min(np.min(targets), np.min(answers)), max(np.max(targets), np.max(answers))]
        ax.plot(ends, ends, color="black", linewidth=0.8, linestyle=":")
        ax.set_xlabel("wanted")
        ax.set_ylabel("answered")
        return svg(figure)

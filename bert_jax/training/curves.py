"""Curves of one or several runs, drawn from their `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.training.log import read_metrics

_TRAINING = {"linewidth": 1.0, "alpha": 0.4}  # noisier than the evaluations, and drawn under them
_HELD_OUT = {"linewidth": 1.8, "markersize": 3.5, "zorder": 3}
_MARKERS = "os^Dv"  # of one evaluation after another
_BESIDE = 3  # of more runs than these the names stand beside a panel: inside they would cover the curves


def plot_curves(
    runs: Mapping[str, str | Path],
    png: str | Path,
    panels: Sequence[str] = (),
    baselines: Mapping[str, float] | None = None,
) -> None:
    """Draws loss and accuracy over the steps, a panel for each metric, a colour for each run.

    Training is the pale line, each evaluation (`valid`, ...) one with marks.

    Args:
        runs: label -> path of a `metrics.jsonl`.
        png: written anew.
        panels: metrics without their first component, such as `mlm/accuracy`; by default every loss and accuracy.
        baselines: metric of a panel -> value of what the model must beat, a dashed line.

    Raises FileNotFoundError or ValueError if a file cannot be read, ValueError if there is nothing to draw.
    """
    # Here, since a run that is starting need not wait for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = {label: _curves(Path(path)) for label, path in runs.items()}
    there = list(dict.fromkeys(name for by_name in curves.values() for name, _ in by_name))
    panels = list(panels) or [name for name in there if name.rsplit("/", 1)[-1] in ("loss", "accuracy")]
    missing = [panel for panel in panels if panel not in there]
    if missing or not panels:
        raise ValueError(f"nothing to draw for {missing or 'loss or accuracy'}; metrics there: {', '.join(there)}")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    many = len(curves) > _BESIDE
    figure = Figure(figsize=((6.4 if many else 4.4) * columns, 3.2 * rows), dpi=130, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[len(panels) :]:
        ax.remove()
    for panel, ax in zip(panels, axes, strict=False):
        _draw(ax, panel, curves)
        if baselines and panel in baselines:
            ax.axhline(baselines[panel], color="black", linestyle="--", linewidth=1, label="baseline")
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "fontsize": "x-small"} if many else {}
        ax.legend(**{"frameon": False, "fontsize": "small"} | place)
    FigureCanvasAgg(figure).print_png(str(png), metadata={"Software": None})


def _curves(path: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(metric, first component) -> points (step, value)."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for entry in read_metrics(path):
        for name, value in entry.items():
            part, _, metric = name.partition("/")
            if metric and value is not None:
                curves.setdefault((metric, part), []).append((entry["step"], value))
    return curves


def _draw(ax: Any, panel: str, curves: Mapping[str, Mapping[tuple[str, str], list[tuple[int, float]]]]) -> None:
    for color, (label, by_name) in enumerate(curves.items()):
        markers = iter(_MARKERS * len(by_name))
        for (metric, part), points in by_name.items():
            if metric != panel:
                continue
            style = _TRAINING if part == "train" else _HELD_OUT | {"marker": next(markers)}
            name = f"{label} ({part})" if len(curves) > 1 else part
            ax.plot(*zip(*points, strict=True), color=f"C{color}", label=name, **style)
    ax.set_title(panel, fontsize="medium")
    ax.set_xlabel("step")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)

"""Two variants against each other, on every task that both have been trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_jax.report.predictions import measured, read_predictions, wanted
from bert_jax.report.runs import Row, Run, in_percent
from bert_jax.report.tables import NONE, Grid, chosen, number
from bert_jax.tasks.significance import Comparison, compare

RESAMPLES = 9999


@dataclass(frozen=True)
class Pair:
    """Two variants of one task by one metric: what the tests found, or why there are none."""

    first: Row
    second: Row
    metric: str
    found: Comparison | None
    examples: int
    note: str


def compare_variants(
    rows: Sequence[Row], first: str, second: str, metrics: Sequence[str] = (), resamples: int = RESAMPLES, seed: int = 0
) -> list[Pair]:
    """Every task and metric that both variants have; the official metrics unless others are named.

    Args:
        first, second: variants as the tables call them, or folders that their runs are in.

    Raises ValueError for a variant that is not there, two of one task below one folder, or no task in common.
    """
    ours, theirs = variant(rows, first), variant(rows, second)
    common = [key for key in ours if key in theirs]
    if not common:
        raise ValueError(f"{first} and {second} have no task in common: {_tasks(ours)}; {_tasks(theirs)}")
    return [
        _pair(ours[key], theirs[key], metric, resamples, seed)
        for key in common
        for metric in chosen(ours[key], metrics)
        if metric in theirs[key].metrics
    ]


def variant(rows: Sequence[Row], name: str) -> dict[tuple[str, str], Row]:
    """The rows of a variant by task and held-out set."""
    here = Path(name).absolute()
    named = [row for row in rows if row.variant == name]
    named = named or [row for row in rows if any(run.folder.absolute().is_relative_to(here) for run in row.runs)]
    if not named:
        raise ValueError(f"no variant {name!r}: there are {', '.join(sorted({row.variant for row in rows}))}")
    found: dict[tuple[str, str], Row] = {}
    for row in named:
        other = found.setdefault((row.task, row.evaluation), row)
        if other is not row:
            raise ValueError(f"{name!r} stands for two variants of {row.task}: {other.variant} and {row.variant}")
    return found


def _pair(first: Row, second: Row, metric: str, resamples: int, seed: int) -> Pair:
    try:
        pairs, note = _paired_seeds(first, second)
        values, measure = _values(first, second, metric, pairs)
        found = compare(*values, measure, resamples, seed)
    except (ValueError, OSError) as error:
        return Pair(first, second, metric, None, 0, str(error))
    notes = [note, *_other_checkpoint(first, second, metric, pairs, found.scores)]
    bad = [f"{run.seed} of {row.variant}" for row in (first, second) for run in row.runs if run.seed in row.degenerate]
    notes += [f"degenerate, and counted: seed {', '.join(bad)}"] if bad else []
    return Pair(first, second, metric, found, values[0].shape[1], "; ".join(filter(None, notes)))


def _paired_seeds(first: Row, second: Row) -> tuple[list[tuple[Run, Run]], str]:
    """Runs of the same seed; where there is none, in the order of the seeds."""
    by_seed = {run.seed: run for run in second.runs}
    pairs = [(run, by_seed[run.seed]) for run in first.runs if run.seed in by_seed]
    if pairs:
        left = len(first.runs) + len(second.runs) - 2 * len(pairs)
        return pairs, f"{left} runs without a partner of the same seed are left out" if left else ""
    return list(zip(first.runs, second.runs, strict=False)), "no seed in common: paired in order"


def _values(first: Row, second: Row, metric: str, pairs: list[tuple[Run, Run]]) -> tuple[list[np.ndarray], object]:
    """The numbers of the examples of both variants, [S, n, K] each, and the measure."""
    labels, sides, measure = None, ([], []), None
    for pair in pairs:
        for run, row, side in zip(pair, (first, second), sides, strict=True):
            lines = read_predictions(run, row.evaluation)
            labels = labels or wanted(lines)
            if wanted(lines) != labels:
                raise ValueError(f"{run.folder}: its held-out examples are not those of {pairs[0][0].folder}")
            separator = run.config["task"].get("separator", "")  # of multi-label runs
            values, measure = measured(lines, metric.rsplit("/", 1)[-1], separator)
            side.append(values)
    if len({values.shape for side in sides for values in side}) > 1:
        raise ValueError("the predictions are not of the same classes")
    return [np.stack(side) for side in sides], measure


def _other_checkpoint(
    first: Row, second: Row, metric: str, pairs: list[tuple[Run, Run]], scores: np.ndarray
) -> list[str]:
    """Says where the predictions are not those that the results were computed from."""
    notes = []
    for pair, own in zip(pairs, scores.T, strict=True):
        for run, row, score in zip(pair, (first, second), own, strict=True):
            reported = row.value(run, metric)
            if reported is not None and abs(in_percent(metric, float(score)) - reported) > 0.01:
                notes.append(
                    f"the predictions of {run.folder} give {number(metric, in_percent(metric, float(score)))}, its "
                    f"results say {number(metric, reported)}: another checkpoint"
                )
    return notes


def _tasks(rows: dict[tuple[str, str], Row]) -> str:
    return ", ".join(f"{task} ({evaluation})" for task, evaluation in rows)


# ---- as a table ------------------------------------------------------------------------------------------------------


def grid(pairs: Sequence[Pair], first: str, second: str, resamples: int, seed: int) -> Grid:
    """A line for each pair: the means, their difference, its interval, and both tests; what they are is below."""
    lines = []
    for pair in pairs:
        metric, found = pair.metric, pair.found
        cells = [pair.first.task, metric]
        if found is None:
            cells += [NONE] * 8
        else:
            scale = in_percent(metric, 1.0)
            ours, theirs = scale * found.scores.mean(axis=1)
            low, high = scale * np.array(found.interval)
            cells += [
                number(metric, float(ours)),
                number(metric, float(theirs)),
                f"{scale * found.difference:+.2f}",
                f"{low:+.2f} to {high:+.2f}",
                probability(found.p_examples),
                NONE if found.p_seeds is None else probability(found.p_seeds),
                str(found.scores.shape[1]),
                f"{pair.examples:,}",
            ]
        lines.append((*cells, pair.note))
    columns = ("task", "metric", first, second, "difference", "95 % interval", "p, examples", "p, seeds", "seeds",
               "examples", "note")  # fmt: skip
    notes = (_explanation(pairs, resamples, seed),)
    return Grid(f"{first} against {second}", columns, tuple(lines), columns[2:-1], notes)


def probability(value: float) -> str:
    return f"{value:.4f}" if value >= 0.00005 else "< 0.0001"


def _explanation(pairs: Sequence[Pair], resamples: int, seed: int) -> str:
    """Which tests these are, how many draws, and what their numbers can and cannot say."""
    counts = sorted({pair.found.scores.shape[1] for pair in pairs if pair.found and pair.found.p_seeds is not None})
    least = ", ".join(f"{2 / 2**count:.2g} with {count} seeds" for count in counts)
    return (
        f"Difference of the means over the seeds, first minus second. Interval: paired bootstrap over the held-out "
        f"examples ({resamples:,} draws, percentiles), both variants and all seeds with the same draw. p, examples: "
        f"two-sided approximate randomization, the answers of both variants exchanged example by example "
        f"({resamples:,} draws). p, seeds: two-sided permutation test with whole seeds exchanged (all exchanges where "
        f"they are fewer than the draws)" + (f"; it cannot be below {least}" if least else "") + f". Random numbers "
        f"from seed {seed}. The first two say what other examples would change for these trained models, the last what "
        f"other seeds would."
        + (
            f" The p-values of the {len(pairs)} comparisons are not corrected for their number."
            if len(pairs) > 1
            else ""
        )
    )

"""Evaluates a learner on held-out sources: metrics, and predictions written out.

    python -m bert_jax.evaluate WORKDIR [--checkpoint best]

restores the experiment of a workdir and evaluates it again, without training.
"""

import csv
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from bert_jax.data.loader import Source, evaluation_batches
from bert_jax.pretrained import load_experiment
from bert_jax.resolve import Resolved, resolve
from bert_jax.training.sharding import Together, parameter_shardings
from bert_jax.training.step import abstract_parameters, make_evaluate_step


def evaluate(
    step: Callable, params: Any, seeds: Any, source: Source, batch_size: int, together: Together
) -> list[tuple[dict[str, float], dict[str, np.ndarray]]]:
    """Metrics and predictions of each run over every example of a source, each counted once.

    Args:
        step: of `training.step.make_evaluate_step`.
        params, seeds: of the training state; of several runs with a leading axis.
        batch_size: examples; the last batch is filled up with rows of weight 0.
    """
    sums: list[dict[str, np.ndarray]] = [{} for _ in range(together.count)]
    predictions: list[dict[str, list[np.ndarray]]] = [{} for _ in range(together.count)]
    for batch in evaluation_batches(source, batch_size):
        real = batch["weight"] > 0
        found = jax.device_get(step(params, seeds, jax.device_put(batch, together.shared_batch)))
        for run, (metrics, predicted) in enumerate(together.split(found)):
            for name, mean in metrics.items():
                sums[run][name] = sums[run].get(name, 0) + np.array([mean.total, mean.count], np.float64)
            for name, values in predicted.items():
                predictions[run].setdefault(name, []).append(values[real])
    return [
        (
            {name: float(total / max(count, 1e-12)) for name, (total, count) in of_run.items()},
            {name: np.concatenate(values) for name, values in predicted.items()},
        )
        for of_run, predicted in zip(sums, predictions, strict=True)
    ]


def evaluate_all(
    run: Resolved, step: Callable, params: Any, seeds: Sequence[int], workdirs: Sequence[Path]
) -> list[dict[str, float]]:
    """Metrics of each run on every held-out source as `source/metric`; writes `predictions-<source>.tsv` into its
    workdir if the task has rows."""
    task, size = run.experiment.task, run.experiment.eval_batch_size
    numbers = np.array(seeds, np.uint32)
    metrics: list[dict[str, float]] = [{} for _ in workdirs]
    for name, source in run.evaluations.items():
        found = evaluate(step, params, numbers if len(seeds) > 1 else numbers[0], source, size, run.together)
        for own, workdir, (means, predictions) in zip(metrics, workdirs, found, strict=True):
            own |= {f"{name}/{metric}": value for metric, value in (means | task.score(predictions, source)).items()}
            write_rows(workdir / f"predictions-{name}.tsv", task.rows(predictions, source))
    return metrics


def write_rows(path: Path, rows: list[dict]) -> None:
    """Writes a TSV with a header, whole or not at all; no file for no rows."""
    if not rows:
        return
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.rename(path)


def main(workdir: tyro.conf.Positional[Path], checkpoint: Literal["best", "latest"] = "latest") -> None:
    """Evaluates a finished or interrupted run on its held-out examples and prints the metrics.

    Args:
        workdir: of the run; its predictions files are written anew.
        checkpoint: which of its checkpoints.
    """
    try:
        start = {"init_from": workdir, "init_checkpoint": checkpoint, "random_weights": False}
        run = resolve(dataclasses.replace(load_experiment(workdir), **start))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    shardings = parameter_shardings(abstract_parameters(run.learner, run.example_batch), run.mesh)
    params = jax.device_put(run.initial, shardings)
    step = make_evaluate_step(run.learner, shardings, run.together)
    (metrics,) = evaluate_all(run, step, params, [run.experiment.seed], [workdir])
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    tyro.cli(main)

"""Evaluates a learner on held-out sources: metrics, and predictions written out.

    python -m bert_jax.evaluate WORKDIR [--checkpoint best]

restores the experiment of a workdir and evaluates it again, without training.
"""

import csv
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from jax.sharding import NamedSharding

from bert_jax.data.loader import Source, evaluation_batches
from bert_jax.pretrained import load_experiment
from bert_jax.resolve import Resolved, resolve
from bert_jax.training.sharding import batch_sharding, parameter_shardings
from bert_jax.training.step import abstract_parameters, make_evaluate_step


def evaluate(
    step: Callable, params: Any, seed: Any, source: Source, batch_size: int, sharding: NamedSharding
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics and predictions over every example of a source, each counted once.

    Args:
        step: of `training.step.make_evaluate_step`.
        params, seed: of the training state.
        batch_size: rows; the last batch is filled up with rows of weight 0.
    """
    sums: dict[str, np.ndarray] = {}
    predictions: dict[str, list[np.ndarray]] = {}
    for batch in evaluation_batches(source, batch_size):
        real = batch["weight"] > 0
        metrics, predicted = jax.device_get(step(params, seed, jax.device_put(batch, sharding)))
        for name, mean in metrics.items():
            sums[name] = sums.get(name, 0) + np.array([mean.total, mean.count], np.float64)
        for name, values in predicted.items():
            predictions.setdefault(name, []).append(values[real])
    means = {name: float(total / max(count, 1e-12)) for name, (total, count) in sums.items()}
    return means, {name: np.concatenate(values) for name, values in predictions.items()}


def evaluate_all(run: Resolved, step: Callable, params: Any, workdir: Path) -> dict[str, float]:
    """Metrics of every held-out source as `source/metric`; writes `predictions-<source>.tsv` if the task has rows."""
    seed, sharding, size = np.uint32(run.experiment.seed), batch_sharding(run.mesh), run.experiment.eval_batch_size
    metrics = {}
    for name, source in run.evaluations.items():
        means, predictions = evaluate(step, params, seed, source, size, sharding)
        means |= run.experiment.task.score(predictions, source)
        metrics |= {f"{name}/{metric}": value for metric, value in means.items()}
        write_rows(workdir / f"predictions-{name}.tsv", run.experiment.task.rows(predictions, source))
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
    for name, value in evaluate_all(run, make_evaluate_step(run.learner, shardings, run.mesh), params, workdir).items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    tyro.cli(main)

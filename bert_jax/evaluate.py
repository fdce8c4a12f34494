"""Evaluates a learner on held-out sources: metrics, and predictions written out.

    python -m bert_jax.evaluate WORKDIR [--checkpoint best]

restores the experiment of a workdir and evaluates it again, without training.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from bert_jax.data.loader import EvaluationBatches, Source
from bert_jax.data.packing import Layout, Padding
from bert_jax.experiment import Experiment, one_line_errors
from bert_jax.pretrained import load_experiment
from bert_jax.resolve import Resolved, resolve
from bert_jax.training.optim import BertAdam
from bert_jax.training.processes import writes
from bert_jax.training.sharding import MeshShape, Together, parameter_shardings
from bert_jax.training.step import make_evaluate_step


def evaluate(
    step: Callable,
    params: Any,
    seeds: Any,
    source: Source,
    batch_size: int,
    together: Together,
    padding: Padding = "full",
) -> list[tuple[dict[str, float], dict[str, np.ndarray]]]:
    """Metrics and predictions of each run over every example of a source, each counted once.

    Args:
        step: of `training.step.make_evaluate_step`.
        params, seeds: of the training state; of several runs with a leading axis.
        batch_size: examples; the last batch is filled up with rows of weight 0.
        padding: how batches are laid out, which changes nothing.
    """
    layout = Layout.of(source, padding, together.parts, together.own_parts)
    batches = EvaluationBatches(source, batch_size, together.own_examples(batch_size))
    sums: list[dict[str, np.ndarray]] = [{} for _ in range(together.count)]
    predictions: list[dict[str, list[np.ndarray]]] = [{} for _ in range(together.count)]
    for i in range(len(batches)):
        (batch,) = layout.batches([batches], i)
        found = jax.device_get(step(params, seeds, together.put(batch, together.shared_batch)))
        for run, (metrics, predicted) in enumerate(together.split(found)):
            for name, mean in metrics.items():
                sums[run][name] = sums[run].get(name, 0) + np.array([mean.total, mean.count], np.float64)
            for name, values in predicted.items():
                real = len(values) * batches.real(i) // batch_size
                predictions[run].setdefault(name, []).append(_full_rows(values[:real], source.max_length))
    return [
        (
            {name: float(total / max(count, 1e-12)) for name, (total, count) in of_run.items()},
            {name: np.concatenate(values) for name, values in predicted.items()},
        )
        for of_run, predicted in zip(sums, predictions, strict=True)
    ]


def _full_rows(values: np.ndarray, length: int) -> np.ndarray:
    """What was predicted of each token [B, L, C], with zeros in place of the columns that a layout has cut."""
    if values.ndim < 3:
        return values
    return np.pad(values, ((0, 0), (0, length - values.shape[1]), *[(0, 0)] * (values.ndim - 2)))


def evaluate_all(
    run: Resolved, step: Callable, params: Any, seeds: Sequence[int], workdirs: Sequence[Path]
) -> list[dict[str, float]]:
    """Metrics of each run on every held-out source as `source/metric`; writes `predictions-<source>.tsv` into its
    workdir if the task has rows."""
    task, size, padding = run.experiment.task, run.experiment.eval_batch_size, run.experiment.padding
    numbers = np.array(seeds, np.uint32)
    metrics: list[dict[str, float]] = [{} for _ in workdirs]
    for name, source in run.evaluations.items():
        found = evaluate(step, params, numbers if len(seeds) > 1 else numbers[0], source, size, run.together, padding)
        for own, workdir, (means, predictions) in zip(metrics, workdirs, found, strict=True):
            own |= {f"{name}/{metric}": value for metric, value in (means | task.score(predictions, source)).items()}
            if writes():
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


def restore(workdir: Path, checkpoint: Literal["best", "latest"] = "latest") -> tuple[Resolved, Callable, Any]:
    """A run opened as the devices here can evaluate it, the step that does so, and its parameters.

    Raises ValueError or FileNotFoundError for a folder that holds no run, and for data that are not there any more.
    """
    experiment = on_these_devices(load_experiment(workdir))
    run = resolve(replace(experiment, init_from=workdir, init_checkpoint=checkpoint, random_weights=False))
    shardings = parameter_shardings(run.abstract, run.mesh)
    return run, make_evaluate_step(run.learner, shardings, run.together), jax.device_put(run.initial, shardings)


def on_these_devices(experiment: Experiment) -> Experiment:
    """The same on the mesh of the run where the devices here make it, else with a copy of the model on each of them; in
    batches that they can share. It is not for training, whose batches only give the shapes."""
    mesh, devices = experiment.mesh, jax.device_count()
    try:
        mesh.build()
    except ValueError:  # another number of devices
        mesh = MeshShape()
    sizes = {name: -(-getattr(experiment, name) // devices) * devices for name in ("batch_size", "eval_batch_size")}
    return replace(experiment, mesh=mesh, optimizer=BertAdam(), steps=1, epochs=0.0, **sizes)


def main(workdir: tyro.conf.Positional[Path], checkpoint: Literal["best", "latest"] = "latest") -> None:
    """Evaluates a finished or interrupted run on its held-out examples and prints the metrics.

    The number of devices need not be that of the run.

    Args:
        workdir: of the run; its predictions files are written anew.
        checkpoint: which of its checkpoints.
    """
    with one_line_errors():
        run, step, params = restore(workdir, checkpoint)
    (metrics,) = evaluate_all(run, step, params, [run.experiment.seed], [workdir])
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    tyro.cli(main)

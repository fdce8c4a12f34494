"""THE loop: pre-training and fine-tuning alike, from top to bottom."""

import sys
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax

from bert_jax.data.loader import TrainingBatches
from bert_jax.evaluate import evaluate_all
from bert_jax.experiment import Experiment, claim_workdir, parse, write_environment
from bert_jax.nn.dot import compute_dtype
from bert_jax.pretrained import write_learner
from bert_jax.resolve import Resolved, resolve
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.curves import plot_curves
from bert_jax.training.flops import dot_flops, peak_flops
from bert_jax.training.health import Health, Stuck
from bert_jax.training.log import METRICS_FILE, Logger
from bert_jax.training.meter import Meter
from bert_jax.training.sharding import batch_sharding
from bert_jax.training.step import (
    State,
    abstract_parameters,
    make_evaluate_step,
    make_init,
    make_train_step,
    state_shardings,
)
from bert_jax.training.stop import StopSignal
from bert_jax.training.work_memory import keep_work_memory

# Exit status of a run that was asked to stop (SIGTERM) and can be continued: EX_TEMPFAIL of sysexits.h.
STOPPED = 75


def main(config: Callable[[], Experiment]) -> None:
    """Runs an experiment file: `python experiments/NAME.py --workdir DIR [--flag value ...]`.

    Bad input ends with one line; `python -X dev` shows where it was found.
    """
    try:
        workdir, experiment = parse(config)
        train(experiment, workdir)
    except (ValueError, OSError, FloatingPointError) as error:
        if sys.flags.dev_mode:
            raise
        sys.exit(f"error: {error}")


def train(experiment: Experiment, workdir: Path) -> dict[str, float]:
    """Trains, or continues where an interrupted run stopped; returns the metrics of the last evaluation.

    Raises ValueError and FileNotFoundError for bad input before anything is compiled or written, FloatingPointError
    where the loss is no number, and SystemExit(75) after SIGTERM, with everything saved.
    """
    # ---- data, model, optimizer: what can be wrong is found here -----------------------------------------------------
    keep_work_memory()
    run = resolve(experiment)
    experiment, learner, total = run.experiment, run.learner, run.steps
    optimizer, schedule = experiment.optimizer.build(total), experiment.optimizer.schedule(total)
    shardings, rows = state_shardings(learner, optimizer, run.example_batch, run.mesh), batch_sharding(run.mesh)
    claim_workdir(workdir, experiment)
    run.tokenizer.save(workdir / "tokenizer")
    write_learner(workdir, learner)
    write_environment(workdir)

    # ---- state: the latest checkpoint, or new ------------------------------------------------------------------------
    best = experiment.best_metric or None
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep=experiment.keep,
        best=best,
        mode="min" if best and best.endswith("loss") else "max",
    )
    state = starting_state(run, optimizer, shardings, checkpoints)
    start = int(state.step)

    # ---- the steps ---------------------------------------------------------------------------------------------------
    train_step = make_train_step(learner, optimizer, shardings, run.mesh)
    evaluate_step = make_evaluate_step(learner, shardings.params, run.mesh)
    batches = TrainingBatches(run.train_source, experiment.batch_size, experiment.seed)
    meter = Meter(schedule, experiment.batch_size, *speed_limit(run))
    baselines = {name: experiment.task.baselines(run.train_source, data) for name, data in run.evaluations.items()}
    health = Health(stuck_signs(baselines, total))
    results: dict[str, float] = {}
    with Logger(workdir, total, start) as log, StopSignal() as stop, checkpoints:
        for line in describe(run, baselines, start):
            log.message(line)
        if experiment.eval_first and start == 0:
            log.log(0, evaluate_all(run, evaluate_step, state.params, workdir))
            meter.restart()
        for step, batch in enumerate(batches.stream(start, total), start + 1):
            state, metrics = train_step(state, jax.device_put(batch, rows))
            meter.add(metrics)
            last, evaluated = step == total, {}
            if last or stop.requested or step % experiment.log_every == 0:
                trained = {f"train/{name}": value for name, value in meter.read(step).items()}
                log.log(step, trained)
                for warning in health.check(step, trained):
                    log.warn(warning)
            if last or step % experiment.eval_every == 0:
                meter.pause()
                results = evaluated = evaluate_all(run, evaluate_step, state.params, workdir)
                log.log(step, evaluated)
                meter.restart()
            if last or stop.requested or evaluated or step % experiment.checkpoint_every == 0:
                checkpoints.save(step, state, evaluated or None)
            if stop.requested and not last:
                log.message(f"stopped after step {step} and saved; the same command continues")
                raise SystemExit(STOPPED)
    if start < total:
        limits = next(iter(baselines.values()), None)
        plot_curves({workdir.name: workdir / METRICS_FILE}, workdir / "curves.png", baselines=limits)
    return results or evaluate_all(run, evaluate_step, state.params, workdir)


def starting_state(
    run: Resolved, optimizer: optax.GradientTransformation, shardings: State, checkpoints: Checkpoints
) -> State:
    """The latest checkpoint of the workdir; without one, new weights, with those to start from put in their place."""
    init, seed = make_init(run.learner, optimizer, shardings), np.uint32(run.experiment.seed)
    if checkpoints.latest_step is None:
        state = init(seed, run.example_batch)
        given = jax.device_put(run.initial, {name: shardings.params[name] for name in run.initial})
        return state.replace(params=state.params | given)
    abstract = jax.eval_shape(init, seed, run.example_batch)
    placed = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        for leaf, sharding in zip(jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True)
    ]
    return checkpoints.restore(jax.tree.unflatten(jax.tree.structure(abstract), placed))


def speed_limit(run: Resolved) -> tuple[float, float]:
    """Flop of a training step (three times the forward pass's dots) and the peak flop/s of the devices together."""
    abstract = nn.unbox(abstract_parameters(run.learner, run.example_batch))

    def forward(params, batch):
        batch = run.learner.corrupt(jax.random.key(0), 0, batch)
        return run.learner.apply({"params": params}, batch, False)

    dtype = compute_dtype(run.learner.encoder.dtype)
    peak = jax.device_count() * peak_flops(jax.devices()[0], dtype)
    return 3.0 * dot_flops(forward, abstract, run.example_batch), peak


def stuck_signs(baselines: dict[str, dict[str, float]], steps: int) -> list[Stuck]:
    """Losses that a model reaches while it ignores its input; still there after a quarter of the run is a sign."""
    advice = "the model has learned nothing from its input; look at the learning rate and at the data (the corpus card)"
    return [
        Stuck(f"train/{metric}", value, tolerance=0.02 * value, after=max(500, min(5000, steps // 4)), advice=advice)
        for metrics in baselines.values()
        for metric, value in metrics.items()
        if metric.endswith("/loss")
    ]


def describe(run: Resolved, baselines: dict[str, dict[str, float]], start: int) -> list[str]:
    """What is about to happen, for the reader of the log."""
    experiment, encoder = run.experiment, run.learner.encoder
    shapes = jax.tree.leaves(nn.unbox(abstract_parameters(run.learner, run.example_batch)))
    held_out = ", ".join(f"{len(source):,} in {name}" for name, source in run.evaluations.items())
    lines = [
        f"{sum(x.size for x in shapes):,} parameters, dots in {compute_dtype(encoder.dtype)}, "
        f"vocabulary of {encoder.vocab_size:,}",
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh "
        + " x ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items()),
        f"{len(run.train_source):,} training examples ({held_out}); {run.steps:,} steps of {experiment.batch_size}",
    ]
    if run.initial:
        lines.append(f"{', '.join(run.initial)} from {experiment.init_from}; everything else is new")
    if start:
        lines.append(f"continues after step {start:,}")
    else:
        lines += experiment.task.preview(run.train_source, run.tokenizer)
    for name, values in baselines.items():
        lines.append(f"{name}, without looking at the input: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    return lines

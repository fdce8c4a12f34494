"""THE loop: pre-training and fine-tuning alike, from top to bottom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.batch_size import find_batch_size
from bert_jax.data.loader import TrainingBatches, stream
from bert_jax.data.packing import Layout
from bert_jax.data.workers import cores
from bert_jax.evaluate import evaluate_all
from bert_jax.experiment import Experiment, command_line, one_line_errors, write_environment
from bert_jax.handover import with_moments
from bert_jax.members import Members
from bert_jax.nn.dot import compute_dtype
from bert_jax.resolve import Resolved, resolve
from bert_jax.training.accumulation import groups
from bert_jax.training.compilation_cache import keep_compiled
from bert_jax.training.cpu_devices import split_cores
from bert_jax.training.curves import plot_curves
from bert_jax.training.flops import dot_flops, peak_flops
from bert_jax.training.health import Stuck
from bert_jax.training.log import METRICS_FILE
from bert_jax.training.memory import device_bytes, estimate, readable
from bert_jax.training.meter import Meter
from bert_jax.training.processes import writes
from bert_jax.training.sharding import MeshShape, Together
from bert_jax.training.step import (
    State,
    make_evaluate_step,
    make_init,
    make_train_step,
    state_shardings,
)
from bert_jax.training.stop import StopSignal
from bert_jax.training.watchdog import Watchdog
from bert_jax.training.work_memory import keep_work_memory

# Exit status of a run that was asked to stop (SIGTERM) and can be continued: EX_TEMPFAIL of sysexits.h.
STOPPED = 75


def main(config: Callable[..., Experiment]) -> None:
    """Runs an experiment file: `python experiments/NAME.py --workdir DIR [--flag value ...]`.

    Bad input ends with one line; `python -X dev` shows where it was found.
    """
    with one_line_errors():
        workdir, experiment, finding = command_line(config)
        joined = experiment.processes.join()
        if experiment.mesh == MeshShape() and not joined:
            split_cores(cores(), experiment.seeds, experiment.batch_size, experiment.eval_batch_size)
        if finding:
            for line in find_batch_size(experiment):
                print(line, flush=True)
            return
        train(experiment, workdir)


def train(experiment: Experiment, workdir: Path) -> dict[str, float]:
    """Trains, or continues where an interrupted run stopped; returns the metrics of the last evaluation, of several
    seeds their means.

    Raises ValueError and FileNotFoundError for bad input before anything is compiled or written, FloatingPointError
    where loss or gradient were no number too often in a row, and SystemExit(75) after SIGTERM, with everything saved.
    A run that hangs ends the process (`training.watchdog`).
    """
    # ---- data, model, optimizer: what can be wrong is found here -----------------------------------------------------
    keep_work_memory()
    keep_compiled()
    run = resolve(experiment)
    experiment, learner, together, total = run.experiment, run.learner, run.together, run.steps
    optimizer, schedule = experiment.optimizer.build(total), experiment.optimizer.schedule(total)
    alone = state_shardings(learner, optimizer, run.example_batch, run.mesh, run.abstract)
    shardings = together.own(alone)
    baselines = {name: experiment.task.baselines(run.train_source, data) for name, data in run.evaluations.items()}
    with (
        Watchdog(experiment.stall_seconds) as watchdog,
        Members(run, workdir, baselines, stuck_signs(baselines, total)) as members,
        StopSignal() as stop,
    ):
        if writes():
            write_environment(workdir)

        # ---- state: the latest checkpoint, or new --------------------------------------------------------------------
        state = starting_state(run, optimizer, shardings, alone, members)
        start = members.latest_step or 0

        # ---- the steps -----------------------------------------------------------------------------------------------
        train_step = make_train_step(learner, optimizer, shardings, together, experiment.accumulate)
        evaluate_step = watchdog.each("an evaluation batch", make_evaluate_step(learner, shardings.params, together))
        one_of = jax.jit(lambda state, i: jax.tree.map(lambda leaf: leaf[i], state), out_shardings=alone)
        own = together.own_examples(experiment.batch_size)
        orders = [TrainingBatches(run.train_source, experiment.batch_size, seed, own) for seed in members.seeds]
        layout = Layout.of(run.train_source, experiment.padding, *groups(together, experiment.accumulate))
        flops, peak = speed_limit(run)
        meter = Meter(together, schedule, experiment.batch_size, peak, experiment.max_skipped_in_a_row)
        results: list[dict[str, float]] = []
        members.start(start)
        for line in [*describe(run, baselines, start), expected_memory(run, optimizer, alone)]:
            members.message(line)
        if experiment.eval_first and start == 0:
            members.evaluated(0, evaluate_all(run, evaluate_step, state.params, members.seeds, members.workdirs))
            meter.restart()
        batches = stream(lambda step: together.stack(layout.batches(orders, step)), start, total)
        for step, batch in watchdog.steps(batches, start):
            state, metrics = train_step(state, together.put(batch, together.batch))
            meter.add(metrics, flops(batch))
            last, evaluated = step == total, []
            stopping = stop.after(step)  # asked once: a step is logged and saved, or it is not the last
            if last or stopping or meter.stuck or step % experiment.log_every == 0:
                members.trained(step, meter.read(step))
                meter.restart()  # the first one opens TensorBoard's files, which takes seconds where torch is installed
            if last or step % experiment.eval_every == 0:
                meter.pause()
                watchdog.doing(f"the evaluation after step {step}")
                results = evaluated = evaluate_all(run, evaluate_step, state.params, members.seeds, members.workdirs)
                members.evaluated(step, evaluated)
                meter.restart()
            if last or stopping or evaluated or step % experiment.checkpoint_every == 0:
                watchdog.doing(f"saving the checkpoint of step {step}")
                members.save(step, state, evaluated, one_of)
            if stopping and not last:
                members.wait()
                members.message(f"stopped after step {step} and saved; the same command continues")
                raise SystemExit(STOPPED)
        results = results or evaluate_all(run, evaluate_step, state.params, members.seeds, members.workdirs)
        means = members.finish(results)
    if start < total and writes():
        limits = next(iter(baselines.values()), None)
        plot_curves({workdir.name: workdir / METRICS_FILE}, workdir / "curves.png", baselines=limits)
    return means


def starting_state(
    run: Resolved, optimizer: optax.GradientTransformation, shardings: State, alone: State, members: Members
) -> State:
    """The latest checkpoint of each run; without one, new weights, with those to start from put in their place.

    `shardings` are those of the runs together, `alone` of one.
    """
    together, seeds = run.together, np.array(members.seeds, np.uint32)
    init = make_init(run.learner, optimizer, shardings, together)
    if together.count == 1:
        seeds = seeds[0]
    latest = members.latest_step
    if latest is None:
        state = init(seeds, run.example_batch)
        given = together.stack([run.initial] * together.count)
        given = jax.device_put(given, {name: shardings.params[name] for name in run.initial})
        if run.experiment.reinitialised_layers and "encoder" in given:
            layers, axis = run.experiment.reinitialised_layers, int(together.count > 1)
            given["encoder"] = reinitialised(state.params["encoder"], given["encoder"], layers, axis)
        if run.moments:
            state = state.replace(opt_state=with_moments(state.opt_state, run.moments))
        return state.replace(params=state.params | given)
    abstract = jax.eval_shape(
        make_init(run.learner, optimizer, alone, Together(run.mesh)), np.uint32(0), run.example_batch
    )
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, alone
    )
    restored = [checkpoints.restore(placed, latest) for checkpoints in members.checkpoints]
    if together.count == 1:
        return restored[0]
    return jax.device_put(together.stack(jax.device_get(restored)), shardings)


def reinitialised(new: Any, given: Any, layers: int, axis: int) -> Any:
    """The encoder `given` with its pooler and its top `layers`, along `axis` of the stacked layers, from `new`."""

    def bottom_and_top(given, new):
        kept = given.shape[axis] - layers
        parts = jnp.split(given, [kept], axis)[0], jnp.split(new, [kept], axis)[1]
        return jnp.concatenate(parts, axis)

    changed = given | {"layers": jax.tree.map(bottom_and_top, given["layers"], new["layers"])}
    return changed | {name: new[name] for name in ("pooler",) if name in new}


def speed_limit(run: Resolved) -> tuple[Callable[[dict[str, np.ndarray]], float], float]:
    """Flop of a training step of one run, as a function of the rows of it that this process has (three times the dots
    that the forward pass has in their shape, and as much for the others), and the peak flop/s of the devices together.
    """
    abstract = nn.unbox(run.abstract)

    def forward(params, batch):
        batch = run.learner.corrupt(jax.random.key(0), 0, batch)
        return run.learner.apply({"params": params}, batch, False)

    dtype = compute_dtype(run.learner.encoder.dtype)
    peak = jax.device_count() * peak_flops(jax.devices()[0], dtype)
    processes = 1 if run.together.own_parts is None else run.together.parts / len(run.together.own_parts)
    counted: dict[Any, float] = {}

    def flops(batch):
        of_run = {name: x[0] if run.together.count > 1 else x for name, x in batch.items()}
        shape = tuple(sorted((name, x.shape) for name, x in of_run.items()))
        if shape not in counted:
            counted[shape] = 3.0 * processes * dot_flops(forward, abstract, of_run)
        return counted[shape]

    return flops, peak


def expected_memory(run: Resolved, optimizer: optax.GradientTransformation, alone: State) -> str:
    """What a step will need of each device's memory, said before it is compiled; `alone` are the shardings of a run."""
    experiment, together = run.experiment, run.together
    layout = Layout.of(run.train_source, experiment.padding, groups(together, experiment.accumulate)[0])
    (batch,) = layout([run.example_batch])
    needed = estimate(run.learner, optimizer, nn.unbox(run.abstract), alone, batch, together, experiment.accumulate)
    there = device_bytes()
    line = f"a step needs about {readable(needed.total)}" + (f" of {readable(there)}" if there else "")
    line += f" on each device: {needed}"
    if there and needed.total > there:
        line += "; this is more than there is, and --find-batch-size says what fits"
    return line


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
    shapes = jax.tree.leaves(nn.unbox(run.abstract))
    held_out = ", ".join(f"{len(source):,} in {name}" for name, source in run.evaluations.items())
    lines = [
        f"{sum(x.size for x in shapes):,} parameters, dots in {compute_dtype(encoder.dtype)}, "
        f"{getattr(encoder, 'attention', 'own')} attention, vocabulary of {encoder.vocab_size:,}",
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh "
        + " x ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
        + (f", {jax.process_count()} processes" if jax.process_count() > 1 else ""),
        f"{len(run.train_source):,} training examples ({held_out}); {run.steps:,} steps of {experiment.batch_size}"
        + (f", {experiment.seeds} seeds at once" if experiment.seeds > 1 else ""),
    ]
    if run.initial:
        top = experiment.reinitialised_layers
        but = f", but for the pooler and the top {top} layers" if top else ""
        lines.append(f"{', '.join(run.initial)} from {experiment.init_from}{but}; everything else is new")
    if run.moments:
        lines.append(f"moments of the optimizer from there, after {int(run.moments['count']):,} updates")
    if start:
        lines.append(f"continues after step {start:,}")
    else:
        lines += experiment.task.preview(run.train_source, run.tokenizer)
    for name, values in baselines.items():
        lines.append(f"{name}, without looking at the input: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    return lines

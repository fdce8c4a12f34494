"""The largest batch whose step fits the memory of the devices: `python experiments/NAME.py ... --find-batch-size`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bert_jax.data.loader import TrainingBatches
from bert_jax.data.packing import Layout
from bert_jax.experiment import Experiment
from bert_jax.resolve import Resolved, resolve
from bert_jax.training.accumulation import groups
from bert_jax.training.compilation_cache import keep_compiled
from bert_jax.training.memory import compiled_bytes, device_bytes, readable
from bert_jax.training.step import make_init, make_train_step, state_shardings

# The share of a device's memory that a step may take: allocators waste some of it, and evaluation, the copy that a
# checkpoint is written from and the batches that are read ahead need some, too.
MARGIN = 0.9
SEEN = 16  # batches, of which the fullest is measured: how many rows a packed one has depends on its examples


@dataclass(frozen=True)
class Tried:
    """A step that was compiled.

    Attributes:
        batch_size, accumulate: of the experiment.
        needed: bytes on each device; None where it could not even be compiled, or run, in the memory there.
        fits: whether that is within `MARGIN` of what there is.
    """

    batch_size: int
    accumulate: int
    needed: int | None
    fits: bool


def find_batch_size(experiment: Experiment) -> Iterator[str]:
    """Lines of a table of what fits, as it is found out, and what to do; nothing is trained, nothing written.

    The batch of the experiment is tried first. Where it fits, so is its double, and so on up to the number of training
    examples; where not, it is computed in ever more micro-batches. What is measured is what XLA has planned for the
    compiled step; on an accelerator one is run, too.

    Raises ValueError and FileNotFoundError as `resolve` does, and ValueError where it is not known how much memory
    there is.
    """
    keep_compiled()  # what fits is what will be trained
    limit = device_bytes()
    if limit is None:
        raise ValueError(f"--find-batch-size: {jax.devices()[0].device_kind} does not say how much memory it has")
    run = resolve(experiment)
    device = jax.devices()[0].device_kind
    yield f"{jax.device_count()} x {device} with {readable(limit)} each, of which a step may take {MARGIN:.0%}"
    yield f"{'batch':>8} {'accumulate':>10} {'examples at a time':>18} {'each device':>12}  fits"
    found: list[Tried] = []
    for tried in search(Steps(run, limit), experiment.batch_size, run.together.parts, len(run.train_source)):
        found.append(tried)
        at_a_time = tried.batch_size // tried.accumulate
        needed = "too much" if tried.needed is None else readable(tried.needed)
        row = f"{tried.batch_size:>8,} {tried.accumulate:>10} {at_a_time:>18,} {needed:>12}"
        yield f"{row}  {'yes' if tried.fits else 'no'}"
    yield advice(found, experiment.batch_size)


def search(steps: Callable[[int, int], Tried], wanted: int, parts: int, most: int) -> Iterator[Tried]:
    """Every step that is tried on the way.

    Args:
        steps: tries (batch_size, accumulate).
        wanted: the batch of the experiment, a multiple of `parts`.
        parts: devices that split it.
        most: there is no use in a larger batch than this.
    """
    yield (tried := steps(wanted, 1))
    if tried.fits:
        size = 2 * wanted
        while tried.fits and size <= most:
            yield (tried := steps(size, 1))
            size *= 2
        return
    for accumulate in range(2, wanted // parts + 1):
        if (wanted // parts) % accumulate == 0:
            yield (tried := steps(wanted, accumulate))
            if tried.fits:
                return


def advice(found: list[Tried], wanted: int) -> str:
    """What to give on the command line."""
    fitting = [tried for tried in found if tried.fits]
    if not fitting:
        return (
            f"a batch of {wanted} does not fit, not even one example at a time on each device: split the parameters "
            "(--mesh.fsdp), compute layers again (--learner.encoder.remat full), or take a smaller model"
        )
    largest = fitting[-1]
    if largest.accumulate > 1:
        return f"give --batch-size {wanted} --accumulate {largest.accumulate}"
    if found[-1].fits:
        return f"--batch-size {wanted} fits, and so does {largest.batch_size}, the largest that the data are enough for"
    return (
        f"--batch-size {wanted} fits, and so does {largest.batch_size}; for {found[-1].batch_size} give --accumulate 2"
    )


class Steps:
    """Compiles the step of a run for a batch size, and on accelerators runs it.

    Args:
        run: of the experiment.
        limit: bytes of each device.
    """

    def __init__(self, run: Resolved, limit: int):
        self._run, self._limit = run, limit
        experiment, together = run.experiment, run.together
        self._optimizer = experiment.optimizer.build(run.steps)
        alone = state_shardings(run.learner, self._optimizer, run.example_batch, run.mesh, run.abstract)
        self._shardings = together.own(alone)
        seeds = np.arange(experiment.seed, experiment.seed + experiment.seeds, dtype=np.uint32)
        init = make_init(run.learner, self._optimizer, self._shardings, together)
        self._init = lambda: init(seeds if together.count > 1 else seeds[0], run.example_batch)
        self._state = jax.eval_shape(self._init)

    def __call__(self, batch_size: int, accumulate: int) -> Tried:
        """Tries one."""
        together, batch = self._run.together, self.fullest(batch_size, accumulate)
        step = make_train_step(self._run.learner, self._optimizer, self._shardings, together, accumulate)
        try:
            compiled = step.lower(self._state, batch).compile()
            needed = compiled_bytes(compiled)
            fits = needed <= MARGIN * self._limit
            if fits and jax.default_backend() != "cpu":
                jax.block_until_ready(compiled(self._init(), jax.device_put(batch, together.batch)))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Tried(batch_size, accumulate, None, False)
        return Tried(batch_size, accumulate, needed, fits)

    def fullest(self, batch_size: int, accumulate: int) -> dict[str, Any]:
        """Of the first batches of the run, the one that is computed in most places."""
        run, experiment = self._run, self._run.experiment
        seeds = range(experiment.seed, experiment.seed + experiment.seeds)
        orders = [TrainingBatches(run.train_source, batch_size, seed) for seed in seeds]
        layout = Layout.of(run.train_source, experiment.padding, groups(run.together, accumulate)[0])
        batches = (run.together.stack(layout.batches(orders, step)) for step in range(min(SEEN, run.steps)))
        return max(batches, key=lambda batch: batch["packing" if "packing" in batch else "tokens"].size)

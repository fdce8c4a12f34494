"""Metrics of the steps between two lines of the log: left on the device until read, then averaged exactly."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from bert_jax.training.sharding import Together

# Enough to keep a device busy, few enough that a request to stop need not wait for a long queue.
STEPS_AHEAD = 3


@dataclass(frozen=True)
class Fault:
    """Too many steps in a row whose update was skipped, since loss or gradient were not finite.

    Attributes:
        text: what was seen first, and which steps they were.
        step: the one that made them too many.
    """

    text: str
    step: int

    def __str__(self) -> str:
        return f"{self.text}: lower the learning rate, or look at the batch of step {self.step}"


@dataclass(frozen=True)
class Reading:
    """Of one run.

    Attributes:
        values: averages over the steps whose update was made (NaN where none was) and rates, by name; where updates
            were skipped, `skipped` says how many, and `skipped_in_a_row` how many at most followed each other.
        skipped: says which they were; None if there were none.
        fault: None as long as there were never too many in a row.
    """

    values: dict[str, float]
    skipped: str | None
    fault: Fault | None


class Meter:
    """Collects what `train_step` returns and turns it into numbers.

    Args:
        together: the runs that the steps train at once.
        schedule: learning rate by step, counted from 0.
        batch_size: examples of a batch, each of one row or of several.
        peak: flop/s that the devices together reach at most, for `mfu`.
        max_skipped: steps in a row that may be skipped, less one: as many are a `Fault`.
    """

    def __init__(self, together: Together, schedule: optax.Schedule, batch_size: int, peak: float, max_skipped: int):
        self._together = together
        self._schedule, self._batch_size, self._peak = schedule, batch_size, peak
        self._max_skipped = max_skipped
        self._rows: list[list[str]] = [[] for _ in range(together.count)]  # of skipped steps, up to the last read
        self._in_a_row = np.zeros(together.count, int)  # up to the last that is known to be computed
        self._pending: list[Any] = []
        self._flops = 0.0  # of the steps that are pending
        self._since, self._before = time.perf_counter(), 0.0

    def add(self, metrics: Any, flops: float) -> None:
        """Keeps one step's metrics, on the device; waits where the host is more than a few steps ahead of it.

        flops: of the step for one run, in the shape that its batch had, without recomputation.
        """
        self._pending.append(metrics)
        self._flops += flops
        if len(self._pending) > STEPS_AHEAD:
            _, scalars = jax.block_until_ready(self._pending[-1 - STEPS_AHEAD])
            self._in_a_row = np.where(np.asarray(scalars["skipped"]), self._in_a_row + 1, 0)

    @property
    def stuck(self) -> bool:
        """Whether it is known of every run that it has skipped too many steps in a row: time to read."""
        return bool(np.all(self._in_a_row >= self._max_skipped))

    def pause(self) -> None:
        """Stops the clock of the rates (for an evaluation) when the steps so far are computed; `restart` goes on."""
        jax.block_until_ready(self._pending)
        self._before += time.perf_counter() - self._since

    def restart(self) -> None:
        """Lets the clock run again after `pause`."""
        self._since = time.perf_counter()

    def read(self, step: int) -> list[Reading]:
        """Of each run the averages and rates over the steps since the last reading, `step` being the last of them.

        The rates are those of all runs together. The first reading of a process counts compilation in its rates.
        """
        steps = [self._together.split(metrics) for metrics in jax.device_get(self._pending)]
        seconds = self._before + time.perf_counter() - self._since
        runs, first = self._together.count, step - len(steps) + 1
        tokens = sum(float(scalars["tokens"]) for of_runs in steps for _, scalars in of_runs)
        rates = {
            "learning_rate": float(self._schedule(step - 1)),
            "examples_per_second": runs * len(steps) * self._batch_size / seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": runs * self._flops / seconds / self._peak,
        }
        readings = [self._reading(run, [of_runs[run] for of_runs in steps], first, rates) for run in range(runs)]
        self._in_a_row = np.array([len(row) for row in self._rows])
        self._pending.clear()
        self._flops = 0.0
        self._since, self._before = time.perf_counter(), 0.0
        return readings

    def _reading(self, run: int, steps: list[Any], first: int, rates: dict[str, float]) -> Reading:
        row, longest, fault, skipped = self._rows[run], 0, None, []
        for at, (_, scalars) in enumerate(steps, first):
            if not scalars["skipped"]:
                row.clear()
                continue
            skipped.append(at)
            row.append(f"{_not_finite(scalars)} at step {at}")
            longest = max(longest, len(row))
            if len(row) == self._max_skipped:
                followed = f", and the updates of {len(row)} steps in a row, to step {at}, were skipped"
                fault = Fault(row[0] + (followed if len(row) > 1 else ""), at)
        values = _averages([of_step for of_step in steps if not of_step[1]["skipped"]], list(steps[0][0])) | rates
        if not skipped:
            return Reading(values, None, None)
        values |= {"skipped": float(len(skipped)), "skipped_in_a_row": float(longest)}
        text = f"{len(skipped)} of the {len(steps)} updates from step {first} on were skipped"
        return Reading(values, f"{text}: {_not_finite(steps[skipped[0] - first][1])} at step {skipped[0]}", fault)


def _averages(steps: list[Any], names: list[str]) -> dict[str, float]:
    values: dict[str, float] = {"loss": _mean([scalars["loss"] for _, scalars in steps])}
    for name in names:
        total = sum(float(metrics[name].total) for metrics, _ in steps)
        count = sum(float(metrics[name].count) for metrics, _ in steps)
        values[name] = total / max(count, 1e-12) if steps else float("nan")
    return values | {"gradient_norm": _mean([scalars["gradient_norm"] for _, scalars in steps])}


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _not_finite(scalars: dict[str, Any]) -> str:
    name = "gradient_norm" if np.isfinite(scalars["loss"]) else "loss"
    return f"{name.replace('_', ' ')} is {scalars[name]}"

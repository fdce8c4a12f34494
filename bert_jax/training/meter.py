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
class Reading:
    """Of one run.

    Attributes:
        values: averages and rates by name.
        fault: says at which step the loss or the gradient was not finite for the first time; None if it always was.
    """

    values: dict[str, float]
    fault: str | None


class Meter:
    """Collects what `train_step` returns and turns it into numbers.

    Args:
        together: the runs that the steps train at once.
        schedule: learning rate by step, counted from 0.
        batch_size: examples of a batch, each of one row or of several.
        peak: flop/s that the devices together reach at most, for `mfu`.
    """

    def __init__(self, together: Together, schedule: optax.Schedule, batch_size: int, peak: float):
        self._together = together
        self._schedule, self._batch_size, self._peak = schedule, batch_size, peak
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
            jax.block_until_ready(self._pending[-1 - STEPS_AHEAD])

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
        readings = [
            Reading(_averages([of_runs[run] for of_runs in steps]) | rates, _fault([s[run] for s in steps], first))
            for run in range(runs)
        ]
        self._pending.clear()
        self._flops = 0.0
        self._since, self._before = time.perf_counter(), 0.0
        return readings


def _averages(steps: list[Any]) -> dict[str, float]:
    values: dict[str, float] = {"loss": float(np.mean([scalars["loss"] for _, scalars in steps]))}
    for name in steps[0][0]:
        total = sum(float(metrics[name].total) for metrics, _ in steps)
        values[name] = total / max(sum(float(metrics[name].count) for metrics, _ in steps), 1e-12)
    return values | {"gradient_norm": float(np.mean([scalars["gradient_norm"] for _, scalars in steps]))}


def _fault(steps: list[Any], first: int) -> str | None:
    for at, (_, scalars) in enumerate(steps, first):
        for name in ("loss", "gradient_norm"):
            if not np.isfinite(scalars[name]):
                what = f"{name.replace('_', ' ')} is {scalars[name]} at step {at}"
                return f"{what}: lower the learning rate, or look at the data of that step"
    return None

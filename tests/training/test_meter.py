"""Metrics between two lines of the log: exact averages, rates over training alone, numbers that are none named."""

import numpy as np
import pytest

from bert_jax.nn.losses import Mean
from bert_jax.training import meter as meter_module
from bert_jax.training.meter import Meter
from bert_jax.training.sharding import MeshShape, Together

ALONE = Together(MeshShape().build())


class Clock:
    """Stands in for `time`; moves only when told."""

    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    return clock


def alone(meter, step):
    (reading,) = meter.read(step)
    assert reading.fault is None
    return reading.values


def metrics_of(loss, total=1.0, count=1.0, tokens=10, norm=2.0):
    mean = Mean(np.float32(total), np.float32(count))
    return {"mlm/loss": mean}, {"loss": np.float32(loss), "gradient_norm": np.float32(norm), "tokens": np.int32(tokens)}


def test_averages_are_exact(clock):
    """Means are summed before they are divided: 1 of 1 and 1 of 3 are 2 of 4. The learning rate is the last step's."""
    meter = Meter(ALONE, lambda step: step / 100, 8, 1.0)
    meter.add(metrics_of(1.0, 1.0, 1.0, norm=1.0), 1.0)
    meter.add(metrics_of(2.0, 1.0, 3.0, norm=3.0), 1.0)
    clock.now += 1
    values = alone(meter, 7)
    assert values["mlm/loss"] == 0.5 and values["loss"] == 1.5 and values["gradient_norm"] == 2.0
    assert values["learning_rate"] == 0.06  # the schedule counts updates from 0
    meter.add(metrics_of(5.0, 0.0, 0.0), 1.0)
    clock.now += 1
    values = alone(meter, 8)  # what was read is gone; nothing counted is 0
    assert values["loss"] == 5.0 and values["mlm/loss"] == 0.0


def test_rates(clock):
    """Examples, real tokens and flop, which differ from step to step, over the time since the last reading; MFU is the
    share of the peak."""
    meter = Meter(ALONE, lambda step: 0.0, batch_size=8, peak=1000.0)
    for tokens, flops in ((10, 60.0), (30, 140.0)):
        meter.add(metrics_of(1.0, tokens=tokens), flops)
    clock.now += 4
    values = alone(meter, 2)
    assert values["examples_per_second"] == 4 and values["tokens_per_second"] == 10 and values["mfu"] == 0.05


def test_an_evaluation_is_left_out_of_the_rates(clock):
    """Its time alone: that of the steps before it, which are not read yet, counts."""
    meter = Meter(ALONE, lambda step: 0.0, batch_size=6, peak=1.0)
    for _ in range(2):
        meter.add(metrics_of(1.0), 1.0)
    clock.now += 2
    meter.pause()
    clock.now += 1000
    meter.restart()
    meter.add(metrics_of(1.0), 1.0)
    clock.now += 1
    assert alone(meter, 3)["examples_per_second"] == 6
    meter.add(metrics_of(1.0), 1.0)
    clock.now += 2
    assert alone(meter, 4)["examples_per_second"] == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"loss": np.nan}, "loss is nan at step 12: lower the learning rate"),
        ({"loss": 1.0, "norm": np.inf}, "gradient norm is inf at step 12"),
    ],
)
def test_the_first_step_that_is_no_number_is_named(clock, bad, message):
    """Not the one at which it was noticed."""
    meter = Meter(ALONE, lambda step: 0.0, 8, 1.0)
    for metrics in (metrics_of(1.0), metrics_of(**bad), metrics_of(np.nan)):
        meter.add(metrics, 1.0)
    clock.now += 1
    (reading,) = meter.read(13)
    assert message in reading.fault

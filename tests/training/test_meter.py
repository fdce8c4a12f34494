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
    assert reading.fault is None and reading.skipped is None
    return reading.values


def metrics_of(loss, total=1.0, count=1.0, tokens=10, norm=2.0):
    mean = Mean(np.float32(total), np.float32(count))
    scalars = {"loss": np.float32(loss), "gradient_norm": np.float32(norm), "tokens": np.int32(tokens)}
    return {"mlm/loss": mean}, scalars | {"skipped": ~np.isfinite(scalars["loss"] + scalars["gradient_norm"])}


def test_averages_are_exact(clock):
    """Means are summed before they are divided: 1 of 1 and 1 of 3 are 2 of 4. The learning rate is the last step's."""
    meter = Meter(ALONE, lambda step: step / 100, 8, 1.0, 3)
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
    meter = Meter(ALONE, lambda step: 0.0, batch_size=8, peak=1000.0, max_skipped=3)
    for tokens, flops in ((10, 60.0), (30, 140.0)):
        meter.add(metrics_of(1.0, tokens=tokens), flops)
    clock.now += 4
    values = alone(meter, 2)
    assert values["examples_per_second"] == 4 and values["tokens_per_second"] == 10 and values["mfu"] == 0.05


def test_an_evaluation_is_left_out_of_the_rates(clock):
    """Its time alone: that of the steps before it, which are not read yet, counts."""
    meter = Meter(ALONE, lambda step: 0.0, batch_size=6, peak=1.0, max_skipped=3)
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


BAD = {
    "nan": {"loss": np.nan, "total": np.nan},
    "inf": {"loss": 1.0, "norm": np.inf},
    "ok": {"loss": 2.0, "total": 5.0},
}


def read(meter, steps, last):
    for name in steps:
        meter.add(metrics_of(**BAD[name]), 1.0)
    (reading,) = meter.read(last)
    return reading


def test_skipped_steps_are_counted_and_not_averaged(clock):
    """Their values are no part of the means; which was the first, and why, is said. Nothing is said of a line without
    any."""
    meter = Meter(ALONE, lambda step: 0.0, 8, 1.0, max_skipped=3)
    clock.now += 1
    reading = read(meter, ["ok", "nan", "inf", "ok"], 12)
    assert (
        reading.values["loss"] == 2.0 and reading.values["mlm/loss"] == 5.0 and reading.values["gradient_norm"] == 2.0
    )
    assert reading.values["skipped"] == 2.0 and reading.values["skipped_in_a_row"] == 2.0
    assert reading.values["tokens_per_second"] == 40.0  # they were computed
    assert reading.skipped == "2 of the 4 updates from step 9 on were skipped: loss is nan at step 10"
    assert reading.fault is None
    clock.now += 1
    assert "skipped" not in alone_again(meter)


def alone_again(meter):
    meter.add(metrics_of(1.0), 1.0)
    return alone(meter, 13)


def test_a_line_of_skipped_steps_alone(clock):
    """Has no averages: they are not 0, which would be a good loss."""
    meter = Meter(ALONE, lambda step: 0.0, 8, 1.0, max_skipped=3)
    clock.now += 1
    reading = read(meter, ["nan", "inf"], 2)
    assert all(np.isnan(reading.values[name]) for name in ("loss", "mlm/loss", "gradient_norm"))
    assert reading.fault is None


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([["nan", "inf", "nan"]], ("loss is nan at step 1, and the updates of 3 steps in a row, to step 3,", 3)),
        ([["inf", "nan", "nan", "nan"]], ("gradient norm is inf at step 1,", 3)),
        ([["ok", "inf"], ["nan", "nan", "ok"]], ("gradient norm is inf at step 2,", 4)),
        ([["nan", "nan", "ok", "nan"], ["nan", "ok", "nan", "nan"]], None),
    ],
)
def test_too_many_in_a_row(clock, lines, found):
    """Counted over lines of the log; one good step between them begins anew. The first and the last are named."""
    meter, step, faults = Meter(ALONE, lambda step: 0.0, 8, 1.0, max_skipped=3), 0, []
    for line in lines:
        clock.now += 1
        step += len(line)
        faults.append(read(meter, line, step).fault)
    assert all(fault is None for fault in faults[:-1])
    if found is None:
        assert faults[-1] is None
    else:
        assert str(faults[-1]).startswith(found[0]) and faults[-1].step == found[1]
        assert str(faults[-1]).endswith(f"lower the learning rate, or look at the batch of step {found[1]}")


def test_one_is_too_many_where_that_is_asked(clock):
    """It is named alone."""
    meter = Meter(ALONE, lambda step: 0.0, 8, 1.0, max_skipped=1)
    clock.now += 1
    fault = read(meter, ["ok", "nan"], 2).fault
    assert str(fault) == "loss is nan at step 2: lower the learning rate, or look at the batch of step 2"


def test_it_is_time_to_read_soon_after_too_many(clock):
    """Not only at the next line of the log, and not before they are computed."""
    meter, seen = Meter(ALONE, lambda step: 0.0, 8, 1.0, max_skipped=3), []
    for name in ["ok", "nan", "nan", "ok"] + 3 * ["nan"] + meter_module.STEPS_AHEAD * ["nan"]:
        meter.add(metrics_of(**BAD[name]), 1.0)
        seen.append(meter.stuck)
    assert seen.index(True) == len(seen) - 1


def test_seeds_at_once_have_their_own_rows(clock):
    """One that has diverged is told from the others, which are read without it; it is not yet time to stop."""
    together = Together(MeshShape().build(), 2)
    meter = Meter(together, lambda step: 0.0, 8, 1.0, max_skipped=2)
    for _ in range(6):
        both = [metrics_of(np.nan, total=np.nan), metrics_of(2.0)]
        meter.add(together.stack(both), 1.0)
        assert not meter.stuck
    clock.now += 1
    bad, good = meter.read(6)
    assert bad.fault.step == 2 and good.fault is None and good.values["loss"] == 2.0 and np.isnan(bad.values["loss"])
    for _ in range(6):
        meter.add(together.stack([metrics_of(np.nan), metrics_of(np.nan)]), 1.0)
    assert meter.stuck

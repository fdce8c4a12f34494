"""The cosine: its values by hand, and that a run in two parts has the same."""

import dataclasses

import numpy as np
import pytest

from bert_jax.training.cosine import CosineAdamW


def test_by_hand():
    """Up in equal steps, then half a cosine: after a quarter of it (2 + sqrt 2) / 4 of the way is left, then 1/2."""
    optimizer = CosineAdamW(learning_rate=2.0, warmup=4, floor=0.1)
    rates = [float(optimizer.schedule(12)(step)) for step in (0, 1, 4, 6, 8, 12)]
    left = np.array([(2 + 2**0.5) / 4, 1 / 2, 0])
    np.testing.assert_allclose(rates, [0, 0.5, 2, *(0.2 + 1.8 * left)], rtol=1e-6)


def test_in_two_parts():
    """Each part of a schedule has its own rates."""
    whole = CosineAdamW(warmup=0.25).schedule(40)
    second = dataclasses.replace(CosineAdamW(warmup=0.25), schedule_start=24, schedule_steps=40).schedule(16)
    assert [float(second(step)) for step in range(16)] == [float(whole(24 + step)) for step in range(16)]


@pytest.mark.parametrize("floor", [-0.1, 1.5])
def test_bad_floor(floor):
    """Said with its name."""
    with pytest.raises(ValueError, match="floor must be from 0 to 1"):
        CosineAdamW(floor=floor)

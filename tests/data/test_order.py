"""The shuffle: that of grain to the bit, every example once an epoch, for any number of examples."""

import grain
import numpy as np
import pytest

from bert_jax.data.order import PART, shuffled


@pytest.mark.parametrize("size", [1, 2, 60, 3000, 65_535, 65_536, 65_538, 67_349, 262_144, 700_000, 2**31 - 3])
@pytest.mark.parametrize("seed", [0, 12345, 2**32 - 1])
def test_it_is_grains_order(size, seed):
    """Word sizes, parts and epochs: a run that was started with grain's own shuffle continues over the same batches."""
    places = np.random.default_rng(0).integers(0, 3 * size, size=8)
    order = grain.MapDataset.range(size).seed(seed).shuffle().repeat()
    assert shuffled(places, size, seed).tolist() == [order[place] for place in places.tolist()]


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 2**16 + 1])
def test_every_example_once_an_epoch(size):
    """Over the seams of parts and epochs, and where the last number is the first with one bit more, which grain's own
    order gives the place of another."""
    found = shuffled(np.arange(3 * size), size, seed=7).reshape(3, size)
    assert (np.sort(found, axis=1) == np.arange(size)).all()

"""The shuffle: every example once an epoch, for any number of examples, and as random as numpy's own."""

import numpy as np
import pytest

from bert_jax.data.order import PART, shuffled

CIPHERED = PART + 500


@pytest.mark.parametrize("size", [1, 2, 60, PART - 1, PART, PART + 1, 2**16, 2**16 + 1])
def test_every_example_once_an_epoch(size):
    """Over the seams of parts and epochs, and where the last number is the first with one bit more."""
    found = shuffled(np.arange(3 * size), size, seed=7).reshape(3, size)
    assert (np.sort(found, axis=1) == np.arange(size)).all()


@pytest.mark.parametrize("size", [60, CIPHERED, 700_000, 2**31 - 3])
def test_a_place_is_the_same_whatever_it_is_asked_with(size):
    """A resumed run, and one of several processes, ask for other places at a time."""
    places = np.random.default_rng(0).integers(0, 3 * size, size=8)
    together = shuffled(places, size, 12345)
    assert together.tolist() == [shuffled(place[None], size, 12345)[0] for place in places]
    assert (together >= 0).all() and (together < size).all()


def test_large_seeds_and_late_epochs():
    """What a run may ask for, and what no two of them share."""
    orders = {tuple(shuffled(e * 60 + np.arange(60), 60, s)) for s in (0, 1, 2**32 - 1, 2**40) for e in (0, 1, 10**6)}
    assert len(orders) == 12


@pytest.mark.parametrize("size", [842, CIPHERED, 70_000])
def test_neighbours_meet_as_often_as_by_chance(size):
    """Pairs of examples at most five apart that share a batch of 16, over seeds: their mean and their spread are those
    of numpy's permutations. Orders that fail this look shuffled, and a small set is learned worse with some seeds."""

    def met(order: np.ndarray) -> int:
        batches = order[: len(order) // 16 * 16].reshape(-1, 16)
        apart = np.abs(batches[:, :, None] - batches[:, None, :])
        return int(((apart > 0) & (apart <= 5)).sum()) // 2

    seeds, places = 100, min(size, PART)
    ours = np.array([met(shuffled(np.arange(places), size, seed)) for seed in range(seeds)])
    random = np.random.default_rng(0)
    theirs = np.array([met(random.permutation(size)[:places]) for _ in range(seeds)])
    error = np.sqrt(ours.var() / seeds + theirs.var() / seeds)
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    assert 0.7 < ours.std() / theirs.std() < 1 / 0.7  # 7 % is a deviation of each of them


@pytest.mark.parametrize(("size", "places", "orders"), [(16, 3, 2000), (CIPHERED, PART, 10)])
def test_no_dependence_between_places(size, places, orders):
    """The examples of two places and their difference are spread evenly over orders: chi-square of 15 ranges."""
    found = np.stack([shuffled(np.arange(places), size, seed) for seed in range(orders)])
    first, second, third = (found[:, place : places - 2 + place : 9].ravel() for place in range(3))
    for values in (first, second, third, (first - second) % size, (first - third) % size):
        counts = np.bincount(values * 16 // size, minlength=16)[1:]  # no two are equal, so the first range has less
        chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi_square < 43.8  # 14 degrees of freedom; p = 0.00006

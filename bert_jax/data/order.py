"""The order of training examples: a new global shuffle in each epoch, computed for many places at once.

Nothing is kept that grows with the number of examples. Few of them are shuffled as a whole. For many, a permutation of
all numbers of an even number of bits, half of the rounds of the block cipher Simon (Beaulieu et al. 2013,
https://eprint.iacr.org/2013/404), is applied to a place again and again until it gives the number of an example (cycle
walking: Black and Rogaway 2002, Ciphers with arbitrary finite domains). `grain.experimental.index_shuffle` is made the
same way from four rounds, too few: documents that are neighbours meet in a batch much more often than by chance under
some seeds, and hardly ever under others, and small sets were then learned worse.
"""

import functools

import numpy as np

ROUNDS = 16  # from 8 on, no dependence was seen between neighbours' places in 40,000 orders
PART = 1 << 14  # places of an epoch that are computed together and kept for the batches to come


def shuffled(places: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The examples at these places of an endless row of epochs.

    Args:
        places: int64 [n], 0 and more; epoch e has the places from e * size on.
        size: number of examples, at least 1.
        seed: of the run; each epoch is another permutation.

    Returns int64 [n], each below `size`.
    """
    epochs, within = np.divmod(places, size)
    found = np.empty_like(within)
    for epoch, part in sorted(set(zip(epochs.tolist(), (within // PART).tolist(), strict=True))):
        rows = (epochs == epoch) & (within // PART == part)
        found[rows] = _part(size, seed, epoch, part)[within[rows] - part * PART]
    return found


@functools.lru_cache(maxsize=64)
def _part(size: int, seed: int, epoch: int, part: int) -> np.ndarray:
    """Places [part * PART, (part + 1) * PART) of an epoch."""
    random = np.random.default_rng((seed, epoch))
    if size <= PART:
        return random.permutation(size)
    word = ((size - 1).bit_length() + 1) // 2
    keys = random.integers(1 << word, size=ROUNDS).tolist()
    found = np.arange(part * PART, min((part + 1) * PART, size))
    walking = np.arange(len(found))
    while len(walking):
        stepped = _encrypted(found[walking], word, keys)
        found[walking] = stepped
        walking = walking[stepped >= size]
    return found


def _encrypted(numbers: np.ndarray, word: int, keys: list[int]) -> np.ndarray:
    """Simon over numbers of two words of `word` bits, at least 8, which is its largest rotation."""
    ones = (1 << word) - 1
    left, right = numbers >> word, numbers & ones
    for key in keys:
        by_one, by_eight, by_two = ((right << n | right >> word - n) & ones for n in (1, 8, 2))
        left, right = right, left ^ by_one & by_eight ^ by_two ^ key
    return left << word | right

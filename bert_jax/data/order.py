"""The order of training examples: a new global shuffle in each epoch, computed for many places at once.

It is the order of `grain.MapDataset.range(size).seed(seed).shuffle().repeat()`, which has to be asked for one place at
a time and then takes longer than reading the examples does: some 10 microseconds a place, a millisecond where there are
60 examples. Nothing is kept that grows with the number of examples: a permutation of all numbers of an even number of
bits, the block cipher Simon (Beaulieu et al. 2013, https://eprint.iacr.org/2013/404) cut to four rounds, is applied to
a place again and again until it gives the number of an example (cycle walking: Black and Rogaway 2002, Ciphers with
arbitrary finite domains). `grain.experimental.index_shuffle` is the same for one place, in 3 microseconds and more; of
sizes such as 65,537 it never gives the last example, and another one twice.
"""

import functools

import numpy as np

ROUNDS = 4
SHORTEST_WORD = 8  # bits of half a number, which Simon's largest rotation wants
PART = 4096  # places of an epoch that are computed together and kept for the batches to come


def shuffled(places: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The examples at these places of an endless row of epochs.

    Args:
        places: int64 [n], 0 and more; epoch e has the places from e * size on.
        size: number of examples, at least 1.
        seed: of the run, below 2**32; each epoch is another permutation.

    Returns int64 [n], each below `size`.
    """
    # Grain derives the seed of a shuffle from that of its data set and the distance between the two.
    first_seed = int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
    epochs, within = np.divmod(places, size)
    found = np.empty_like(within)
    for epoch, part in sorted(set(zip(epochs.tolist(), (within // PART).tolist(), strict=True))):
        rows = (epochs == epoch) & (within // PART == part)
        found[rows] = _part(size, (first_seed + epoch) % 2**32, part)[within[rows] - part * PART]
    return found


@functools.lru_cache(maxsize=64)
def _part(size: int, seed: int, part: int) -> np.ndarray:
    """Places [part * PART, (part + 1) * PART) of the epoch with this seed."""
    word = max(SHORTEST_WORD, ((size - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed)
    # From few examples the walk is long, and the next steps of all numbers are then quickly listed.
    following = _encrypted(np.arange(1 << 2 * word), word, keys) if word == SHORTEST_WORD else None
    found = np.arange(part * PART, min((part + 1) * PART, size))
    walking = np.arange(len(found))
    while len(walking):
        stepped = _encrypted(found[walking], word, keys) if following is None else following[found[walking]]
        found[walking] = stepped
        walking = walking[stepped >= size]
    return found


def _encrypted(numbers: np.ndarray, word: int, keys: list[int]) -> np.ndarray:
    """Simon over numbers of two words of `word` bits."""
    ones = (1 << word) - 1
    left, right = numbers >> word, numbers & ones
    for key in keys:
        by_one, by_eight, by_two = ((right << n | right >> word - n) & ones for n in (1, 8, 2))
        left, right = right, left ^ by_one & by_eight ^ by_two ^ key & ones
    return left << word | right


def _round_keys(seed: int) -> list[int]:
    """What C++'s `std::seed_seq{seed}` generates, the four 32-bit numbers of [rand.util.seedseq] in the standard."""
    keys = [0x8B8B8B8B] * ROUNDS
    for k in range(2 * ROUNDS):
        here, after, second, before = k % ROUNDS, (k + 1) % ROUNDS, (k + 2) % ROUNDS, (k - 1) % ROUNDS
        if k < ROUNDS:
            mixed = keys[here] ^ keys[after] ^ keys[before]
            first = 1664525 * (mixed ^ mixed >> 27) % 2**32
            keys[after] = (keys[after] + first) % 2**32
            first = (first + k + {0: 1, 1: seed}.get(k, 0)) % 2**32  # one seed, and which
            keys[second] = (keys[second] + first) % 2**32
        else:
            mixed = (keys[here] + keys[after] + keys[before]) % 2**32
            first = 1566083941 * (mixed ^ mixed >> 27) % 2**32
            keys[after] ^= first
            first = (first - here) % 2**32
            keys[second] ^= first
        keys[here] = first
    return keys

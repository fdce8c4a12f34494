"""Is one variant better than another? Paired tests over the same held-out examples, and over the same seeds.

A score of a whole set, such as F1 or a correlation, is no mean over examples: it is computed anew for every draw. So
a run gives a few numbers for each example, `values` [n, K], and a measure makes one score of them, for many draws at
once: [..., n, K] -> [...].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float, Int, Num

Scores = Float[np.ndarray, "*draws"] | np.floating  # numpy makes a number of an array without axes
Measure = Callable[[Num[np.ndarray, "*draws n K"]], Scores]

# Numbers held at once while scores are computed anew: a few hundred megabytes.
_NUMBERS = 10_000_000


@dataclass(frozen=True)
class Comparison:
    """By how much the first variant is better than the second, and how surely.

    Attributes:
        scores: of each seed of both variants, [2, S].
        difference: of the means over the seeds.
        interval: of the difference at 95 %, if other examples had been drawn: the percentiles of a bootstrap in which
            both variants have the same draw.
        p_examples: of so large a difference, either way, if it were chance for every example which variant gave which
            of the two answers (approximate randomization; all seeds of an example are exchanged together).
        p_seeds: the same with whole seeds exchanged instead of examples; None for a single one. It cannot be below
            2 / 2**S, as there are no more ways to exchange S seeds.
    """

    scores: np.ndarray
    difference: float
    interval: tuple[float, float]
    p_examples: float
    p_seeds: float | None


def compare(
    first: Num[np.ndarray, "S n K"],
    second: Num[np.ndarray, "S n K"],
    measure: Measure,
    resamples: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Tests the difference of two variants whose seeds and examples are in the same order.

    Args:
        first, second: K numbers of each of n examples, for each of S seeds.
        resamples: draws of the bootstrap, and of either permutation test unless there are no more permutations.
        seed: of these draws.

    Raises ValueError for fewer than two examples.
    """
    seeds, examples, width = first.shape
    if examples < 2:
        raise ValueError(f"{examples} examples: two are needed to compare variants")
    if measure is mean:  # linear: the seeds can be averaged before the draws, to the same result
        pairs = first.mean(axis=0, keepdims=True), second.mean(axis=0, keepdims=True)
    else:
        pairs = first, second
    rng = np.random.default_rng(seed)
    options = {"n_resamples": resamples, "vectorized": True, "rng": rng}
    batch = max(1, _NUMBERS // (2 * len(pairs[0]) * examples * width))

    def of_draw(rows: np.ndarray, axis: int) -> Scores:
        drawn = rows.astype(np.int64)
        return (measure(pairs[0][:, drawn]) - measure(pairs[1][:, drawn])).mean(axis=0)

    def of_exchange(side: np.ndarray, _: np.ndarray, axis: int) -> Scores:
        shape = (len(pairs[0]), *(1,) * (side.ndim - 1), examples, width)
        ours, theirs = (values.reshape(shape) for values in pairs)
        exchanged = side[..., None] == 1
        return (measure(np.where(exchanged, theirs, ours)) - measure(np.where(exchanged, ours, theirs))).mean(axis=0)

    drawn = scipy.stats.bootstrap((np.arange(examples),), of_draw, method="percentile", batch=batch, **options)
    sides = np.zeros(examples), np.ones(examples)
    exchanged = scipy.stats.permutation_test(sides, of_exchange, permutation_type="samples", batch=batch, **options)
    scores = np.stack([measure(first), measure(second)])
    p_seeds = None
    if seeds > 1:
        by_seed = scipy.stats.permutation_test(tuple(scores), _mean_difference, permutation_type="samples", **options)
        p_seeds = float(by_seed.pvalue)
    interval = drawn.confidence_interval
    return Comparison(
        scores,
        float(np.diff(scores[::-1].mean(axis=1))[0]),
        (float(interval.low), float(interval.high)),
        float(exchanged.pvalue),
        p_seeds,
    )


def _mean_difference(first: np.ndarray, second: np.ndarray, axis: int) -> Scores:
    return (first - second).mean(axis=axis)


# ---- measures --------------------------------------------------------------------------------------------------------


def mean(values: Num[np.ndarray, "*draws n 1"]) -> Scores:
    """Of one number an example: right or wrong, or a score of its own as SQuAD's."""
    return values[..., 0].mean(axis=-1)


def matches(labels: Int[np.ndarray, " n"], found: Int[np.ndarray, " n"], classes: int) -> np.ndarray:
    """What `f1`, `macro_f1` and `matthews` count in each example, [n, 3 C]: for each class whether it was rightly
    found, found, and to be found."""
    found_one, label_one = (numbers[:, None] == np.arange(classes) for numbers in (found, labels))
    return np.concatenate([found_one & label_one, found_one, label_one], axis=1).astype(np.float64)


def share(values: Num[np.ndarray, "*draws n 2"]) -> Scores:
    """Of the first sum in the second: of words in sentences."""
    sums = values.sum(axis=-2)
    return _ratio(sums[..., 0], sums[..., 1])


def f1(values: Num[np.ndarray, "*draws n K"]) -> Scores:
    """F1 of the last class of `matches`; or of such counts of examples that hold several: entities, or labels."""
    right, found, wanted = (sums[..., -1] for sums in _sums(values))
    return _ratio(2 * right, found + wanted)


def macro_f1(values: Num[np.ndarray, "*draws n K"]) -> Scores:
    """The mean F1 of the classes that occur."""
    right, found, wanted = _sums(values)
    return _ratio(_ratio(2 * right, found + wanted).sum(axis=-1), (found + wanted > 0).sum(axis=-1, dtype=float))


def label_macro_f1(values: Num[np.ndarray, "*draws n K"]) -> Scores:
    """The mean F1 of labels of which an example has any number; 0 for one that does not occur."""
    right, found, wanted = _sums(values)
    return _ratio(2 * right, found + wanted).mean(axis=-1)


def matthews(values: Num[np.ndarray, "*draws n K"]) -> Scores:
    """Matthews correlation, also of more than two classes (Gorodkin 2004); 0 where all answers or all labels agree."""
    right, found, wanted = _sums(values)
    total = values.shape[-2]
    spread = (total**2 - (found**2).sum(axis=-1)) * (total**2 - (wanted**2).sum(axis=-1))
    return _ratio(total * right.sum(axis=-1) - (found * wanted).sum(axis=-1), np.sqrt(spread))


def pearson(values: Num[np.ndarray, "*draws n 2"]) -> Scores:
    """Linear correlation of two numbers; 0 where one of them is constant."""
    centred = values - values.mean(axis=-2, keepdims=True)
    x, y = centred[..., 0], centred[..., 1]
    constant = np.ptp(values, axis=-2).min(axis=-1) == 0  # whose deviations may round to a little more than 0
    return np.where(constant, 0.0, _ratio((x * y).sum(axis=-1), np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))))


def spearman(values: Num[np.ndarray, "*draws n 2"]) -> Scores:
    """Rank correlation of two numbers; 0 where one of them is constant."""
    return pearson(scipy.stats.rankdata(values, axis=-2))


def _sums(values: np.ndarray) -> Sequence[np.ndarray]:
    return np.split(values.sum(axis=-2), 3, axis=-1)


def _ratio(above: Scores, below: Scores) -> Scores:
    """0 where there is nothing to divide by."""
    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    return np.divide(above, below, out=np.zeros(shape), where=np.asarray(below) > 0)

"""Paired tests: measures as the libraries compute them, p-values that are right, intervals that hold."""

import numpy as np
import pytest
import scipy.stats

from bert_jax.tasks import metrics
from bert_jax.tasks.significance import (
    compare,
    f1,
    label_macro_f1,
    macro_f1,
    matches,
    matthews,
    mean,
    pearson,
    share,
    spearman,
)


@pytest.mark.parametrize("classes", [2, 4])
def test_measures_of_classes_are_those_of_scikit_learn(classes):
    """Many draws at once give what one set after the other gives; also where a class does not occur or all agree."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 40)
    found = np.where(rng.random(40) < 0.6, labels, rng.integers(0, classes, 40))
    draws = rng.integers(0, 40, (30, 12))
    draws[0] = np.flatnonzero(labels == 0)[0]
    values = matches(labels, found, classes)
    for name, measure in (("f1", f1), ("macro_f1", macro_f1), ("matthews", matthews)):
        if name == "f1" and classes > 2:
            continue
        draws = draws[1:] if name == "matthews" else draws  # scikit-learn warns where all are of one class
        expected = [metrics.CLASS_METRICS[name](labels[draw], found[draw]) for draw in draws]
        np.testing.assert_allclose(measure(values[draws]), expected, atol=1e-12, err_msg=name)


def test_measures_of_labels_are_those_of_scikit_learn():
    """Each counts in the mean, also the last, which does not occur; many draws at once."""
    rng = np.random.default_rng(0)
    wanted, found = rng.random((2, 20, 12, 5)) < [0.5, 0.3, 0.2, 0.1, 0]
    values = np.concatenate([found & wanted, found, wanted], axis=-1).astype(float)
    expected = [metrics.LABEL_METRICS["macro_f1"](*pair) for pair in zip(wanted, found, strict=True)]
    np.testing.assert_allclose(label_macro_f1(values), expected, atol=1e-12)


def test_correlations_are_those_of_scipy():
    """With ties, and 0 for a constant as everywhere else here."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (20, 15, 2)).astype(float)
    values[3, :, 0] = 0.1 * 3  # no number that is exact
    for name, measure in (("pearson", pearson), ("spearman", spearman)):
        expected = [getattr(metrics, name)(*draw.T) for draw in values]
        assert expected[3] == 0
        np.testing.assert_allclose(measure(values), expected, atol=1e-12)


def test_one_class_everywhere_has_no_matthews():
    """0, as where one of two things is constant everywhere else here, of labels as of answers."""
    for labels, found in (([1, 1, 1], [1, 1, 1]), ([0, 1, 0], [1, 1, 1]), ([1, 1, 1], [0, 1, 0])):
        assert matthews(matches(np.array(labels), np.array(found), 2)) == 0


def test_counts_of_sentences():
    """Entities and words are summed before they are divided, by hand."""
    assert f1(np.array([[1, 2, 1], [3, 3, 4.0]])) == 2 * 4 / (5 + 5)
    assert f1(np.zeros((2, 3))) == 0
    assert share(np.array([[9, 10], [0, 2.0]])) == 9 / 12


def rights(rng, seeds=1, examples=100, level=0.0):
    """Scores of examples with a part that belongs to the example, as of two models with the same hard examples."""
    return level + rng.normal(size=(1, examples, 1)) + rng.normal(size=(seeds, examples, 1))


@pytest.mark.parametrize("measure", [mean, spearman])
def test_the_same_predictions_are_no_difference(measure):
    """p is 1 in both tests, and the interval is a point."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 30, 1 if measure is mean else 2))
    found = compare(values, values, measure, resamples=99)
    assert (found.difference, found.interval, found.p_examples, found.p_seeds) == (0, (0, 0), 1, 1)


def test_a_clear_difference():
    """The sign is that of first minus second, p is as small as the draws allow, and the interval is all above 0."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    good, bad = (
        np.stack([matches(labels, np.where(rng.random(200) < right, labels, 1 - labels), 2) for _ in range(5)])
        for right in (0.95, 0.7)
    )
    found = compare(good, bad, matthews, resamples=999)
    assert found.difference == pytest.approx(np.mean(matthews(good)) - np.mean(matthews(bad)))
    assert found.difference > 0.3 and found.interval[0] > 0.2
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.p_examples == 2 / 1000  # two-sided: twice the smallest of one side, (0 + 1) / (999 + 1)
    assert found.p_seeds == 2 / 2**5  # all ways to exchange five seeds
    back = compare(bad, good, matthews, resamples=999)
    assert (back.difference, back.p_examples) == (pytest.approx(-found.difference), found.p_examples)


def test_p_by_hand():
    """Three examples, differences 1, 1 and 0: of the eight exchanges two reach 2 / 3, two -2 / 3: p = 4 / 8. The
    seeds' differences are 2 / 3 and 2 / 3: one of four exchanges reaches it, one the opposite: p = 2 / 4."""
    first, second = np.array([[[1.0], [1.0], [1.0]]] * 2), np.array([[[0.0], [0.0], [1.0]]] * 2)
    found = compare(first, second, mean)
    assert (found.difference, found.p_examples, found.p_seeds) == (pytest.approx(2 / 3), 0.5, 0.5)
    assert compare(first[:1], second[:1], mean).p_seeds is None


def test_averaging_the_seeds_first_changes_nothing():
    """The short way for means draws the same and finds the same as the long way."""
    rng = np.random.default_rng(0)
    first, second = rights(rng, 3, 40, level=0.3), rights(rng, 3, 40)
    short, long = (compare(first, second, measure, resamples=199) for measure in (mean, lambda v: v[..., 0].mean(-1)))
    np.testing.assert_allclose(short.interval, long.interval, atol=1e-12)
    assert (short.p_examples, short.p_seeds) == (long.p_examples, long.p_seeds)


def test_chance_is_found_as_often_as_promised():
    """Of 200 comparisons of equals about one in twenty is at p <= 0.05 and has an interval without 0, within the
    bounds that a binomial leaves in 999 of 1000 cases."""
    rng = np.random.default_rng(0)
    found = [compare(rights(rng), rights(rng), mean, resamples=199, seed=i) for i in range(200)]
    low, high = scipy.stats.binom.interval(0.999, 200, 0.05)
    assert low <= sum(one.p_examples <= 0.05 for one in found) <= high
    assert low <= sum(one.interval[0] > 0 or one.interval[1] < 0 for one in found) <= high


def test_one_example_is_too_few():
    """Said, and not a number."""
    with pytest.raises(ValueError, match="1 examples: two are needed"):
        compare(np.ones((1, 1, 1)), np.ones((1, 1, 1)), mean)

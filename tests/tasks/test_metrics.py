"""Metrics over whole held-out sets against counts made by hand."""

import math

import numpy as np
import pytest

from bert_jax.tasks.metrics import CLASS_METRICS, LABEL_METRICS, pearson, spearman

# True positives 3, false positives 1, false negatives 2, true negatives 4.
LABELS = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
FOUND = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0])


def test_f1_is_that_of_the_second_class():
    """2 tp / (2 tp + fp + fn), which is another number for the other class; 0 where nothing is found."""
    assert CLASS_METRICS["f1"](LABELS, FOUND) == pytest.approx(6 / 9)
    assert CLASS_METRICS["f1"](1 - LABELS, 1 - FOUND) == pytest.approx(8 / 11)
    assert CLASS_METRICS["f1"](LABELS, np.zeros(10, int)) == 0


def test_macro_f1_is_the_mean_over_classes():
    """Each class counts the same."""
    assert CLASS_METRICS["macro_f1"](LABELS, FOUND) == pytest.approx((6 / 9 + 8 / 11) / 2)


def test_matthews():
    """(tp tn - fp fn) / the root of the product of the margins; 0 for a constant answer, as GLUE has it."""
    wanted = (3 * 4 - 1 * 2) / math.sqrt((3 + 1) * (3 + 2) * (4 + 1) * (4 + 2))
    assert CLASS_METRICS["matthews"](LABELS, FOUND) == pytest.approx(wanted)
    assert CLASS_METRICS["matthews"](LABELS, np.ones(10, int)) == 0


@pytest.mark.parametrize("name", CLASS_METRICS)
@pytest.mark.parametrize("value", [0, 1])
def test_one_class_everywhere(name, value):
    """In labels and answers: a number, and no warning in the log of a run."""
    same = np.full(3, value)
    assert CLASS_METRICS[name](same, same) == {"f1": value, "macro_f1": 1, "matthews": 0}[name]
    assert 0 <= CLASS_METRICS[name](same, 1 - same) == 0


def test_f1_of_labels():
    """Over all labels together, and the mean over the labels; a label that never occurs and is never found has 0."""
    wanted = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 0]], bool)
    found = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]], bool)
    # By label: tp 2 fp 1 fn 0; tp 0 fp 0 fn 1; tp 1 fp 1 fn 1; nothing.
    assert LABEL_METRICS["micro_f1"](wanted, found) == pytest.approx(6 / (6 + 2 + 2))
    assert LABEL_METRICS["macro_f1"](wanted, found) == pytest.approx((4 / 5 + 0 + 2 / 4 + 0) / 4)


def test_correlations():
    """Pearson's of a line with one point off it by hand; Spearman's sees ranks only, with ties at their mean."""
    targets = np.array([0.0, 1, 2, 3], np.float32)
    found = np.array([0.0, 1, 4, 3], np.float32)
    assert pearson(targets, found) == pytest.approx(6 / math.sqrt(5 * 10))  # covariance and variances times n
    assert spearman(targets, found) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman(targets, np.exp(targets)) == pytest.approx(1) and pearson(targets, np.exp(targets)) < 0.95
    # Ranks 1.5 1.5 3 4 against 1 2 3 4: covariance 4.5, variances 4.5 and 5.
    assert spearman(np.array([5.0, 5, 6, 7]), targets) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_no_correlation_with_what_is_constant():
    """0 and not NaN, and no warning: a model that answers the same everywhere has learned nothing."""
    assert pearson(np.array([1.0, 2]), np.array([3.0, 3])) == spearman(np.array([3.0, 3]), np.array([1.0, 2])) == 0

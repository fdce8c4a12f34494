"""Metrics over a whole held-out set, computed on the host, by the names that results are reported under."""

from collections.abc import Callable

import numpy as np
import scipy.stats
from sklearn.metrics import f1_score, matthews_corrcoef


def matthews(labels: np.ndarray, found: np.ndarray) -> float:
    """Matthews correlation; 0 where one of the two is constant, which has none."""
    return 0.0 if _constant(labels, found) else float(matthews_corrcoef(labels, found))


def pearson(targets: np.ndarray, found: np.ndarray) -> float:
    """Linear correlation; 0 where one of the two is constant, which has none."""
    return _correlation(scipy.stats.pearsonr, targets, found)


def spearman(targets: np.ndarray, found: np.ndarray) -> float:
    """Rank correlation; 0 where one of the two is constant, which has none."""
    return _correlation(scipy.stats.spearmanr, targets, found)


def _correlation(measure: Callable, targets: np.ndarray, found: np.ndarray) -> float:
    if _constant(targets, found):
        return 0.0
    return float(measure(np.asarray(targets, np.float64), np.asarray(found, np.float64))[0])


def _constant(*values: np.ndarray) -> bool:
    return any(np.ptp(each) == 0 for each in values)


# Of classes: labels [n] and predictions [n] as numbers of classes. `f1` is that of class 1, as GLUE has it.
CLASS_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "f1": lambda labels, found: f1_score(labels, found, pos_label=1, zero_division=0.0),
    "macro_f1": lambda labels, found: f1_score(labels, found, average="macro", zero_division=0.0),
    "matthews": matthews,
}

# Of labels that exclude nothing: what is right and what was found, both [n, C] of yes and no.
LABEL_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "micro_f1": lambda wanted, found: f1_score(wanted, found, average="micro", zero_division=0.0),
    "macro_f1": lambda wanted, found: f1_score(wanted, found, average="macro", zero_division=0.0),
}

"""Metrics over a whole held-out set, computed on the host, by the names that results are reported under.

scikit-learn is imported where it is called: it takes a second, which a run that only counts what is right need not
wait for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy  # its parts are imported when they are first used: together they take a second


def matthews(labels: np.ndarray, found: np.ndarray) -> float:
    """Matthews correlation; 0 where one of the two is constant, which has none."""
    from sklearn.metrics import matthews_corrcoef

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


def _f1(wanted: np.ndarray, found: np.ndarray, **options: Any) -> float:
    from sklearn.metrics import f1_score

    return f1_score(wanted, found, zero_division=0.0, **options)


def _constant(*values: np.ndarray) -> bool:
    return any(np.ptp(each) == 0 for each in values)


# Of classes: labels [n] and predictions [n] as numbers of classes. `f1` is that of class 1, as GLUE has it.
CLASS_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "f1": partial(_f1, pos_label=1),
    "macro_f1": partial(_f1, average="macro"),
    "matthews": matthews,
}

# Of labels that exclude nothing: what is right and what was found, both [n, C] of yes and no.
LABEL_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "micro_f1": partial(_f1, average="micro"),
    "macro_f1": partial(_f1, average="macro"),
}

"""Signs in the metrics that a training run is evidently broken."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stuck:
    """A loss that a model reaches without learning anything from its input.

    Attributes:
        metric: name, such as `train/mlm/loss`.
        value: the loss of the best constant answer: the unigram entropy for MLM, ln 2 for NSP. In nats, as the metric.
        tolerance: how far below `value` the metric must come to count as learning.
        after: steps from which on it should have come there.
        advice: what to look at, ends the warning.
    """

    metric: str
    value: float
    tolerance: float
    after: int
    advice: str


class Health:
    """Watches metrics: warns where a loss stays at a `Stuck` value or falls back to it, raises for no number."""

    def __init__(self, signs: Sequence[Stuck]):
        self._signs = tuple(signs)
        self._warned: set[Stuck] = set()

    def check(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """Warnings about the metrics of `step`, each once until the metric has recovered.

        Raises FloatingPointError naming the metric and the step if a loss is not finite.
        """
        for name, value in metrics.items():
            if name.rsplit("/", 1)[-1] == "loss" and not math.isfinite(value):
                advice = "lower the learning rate, or look at the data of that step"
                raise FloatingPointError(f"{name} is {float(value)} at step {step}: {advice}")
        warnings = []
        for sign in self._signs:
            if sign.metric not in metrics or step < sign.after:
                continue
            if metrics[sign.metric] < sign.value - sign.tolerance:
                self._warned.discard(sign)
            elif sign not in self._warned:
                self._warned.add(sign)
                warnings.append(
                    f"{sign.metric} is {metrics[sign.metric]:.4f} at step {step}, where always giving the same answer "
                    f"reaches {sign.value:.4f}: {sign.advice}"
                )
        return warnings


def degenerate(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str | None:
    """Says that a trained model is no better than an answer that ignores the input; None if it is (Mosbach et al. 2021,
    arXiv 2006.04884, call a fine-tuning run failed that does not beat the majority class).

    Args:
        metrics: of the last evaluation, `source/head/metric`.
        baselines: of each source, `head/metric`; where a head has an accuracy it decides, else its loss.
    """
    for source, values in baselines.items():
        for name, value in values.items():
            head, _, kind = name.rpartition("/")
            found = metrics.get(f"{source}/{name}")
            if found is None or (kind == "loss" and f"{head}/accuracy" in values):
                continue
            if not math.isfinite(found) or (found >= value if kind == "loss" else found <= value):
                return f"{source}/{name} is {found:.4f}, and {value:.4f} without looking at the input"
    return None

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
    """Watches metrics: warns where a loss stays at a `Stuck` value or falls back to it.

    A loss that is no number is passed over: it is of steps that changed nothing, and `Meter` counts these.
    """

    def __init__(self, signs: Sequence[Stuck]):
        self._signs = tuple(signs)
        self._warned: set[Stuck] = set()

    def check(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """Warnings about the metrics of `step`, each once until the metric has recovered."""
        warnings = []
        for sign in self._signs:
            if step < sign.after or not math.isfinite(metrics.get(sign.metric, math.nan)):
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
        baselines: of each source, `head/metric`. A head is no better if it is so in all of them; losses count only
            where it has nothing else.
    """
    for source, values in baselines.items():
        for head in dict.fromkeys(name.rpartition("/")[0] for name in values):
            if not any(name.startswith(f"{source}/{head}/") for name in metrics):
                continue  # data know baselines of objectives that a learner need not have
            own = {name: value for name, value in values.items() if name.startswith(f"{head}/")}
            own = {name: value for name, value in own.items() if not is_loss(name)} or own
            found = {name: metrics.get(f"{source}/{name}", math.nan) for name in own}
            if not any(value < own[name] if is_loss(name) else value > own[name] for name, value in found.items()):
                worth = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
                return f"{source}/{head} is no better than without looking at the input: {worth}"
    return None


def is_loss(metric: str) -> bool:
    """Whether less is better of a metric."""
    return metric.rsplit("/", 1)[-1] in ("loss", "mse", "perplexity")

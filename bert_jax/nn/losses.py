"""Averages that stay exact over devices, batches and ragged ends, and the cross-entropy they are taken of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Mean(NamedTuple):
    """An average kept as its sum and its weight: adding two of them is exact, averaging averages is not.

    Inside a jitted step over a sharded batch both are sums over the global batch.
    """

    total: Float[Array, ""]
    count: Float[Array, ""]

    @classmethod
    def of(cls, values: Float[Array, "..."], weights: Float[Array, "..."]) -> "Mean":
        """The weighted mean of `values`; both of one shape. A weight of 0 hides even a value that is not finite."""
        return cls(jnp.sum(jnp.where(weights > 0, values * weights, 0.0)), jnp.sum(weights))

    @property
    def value(self) -> Float[Array, ""]:
        """total / count; 0 where nothing was counted."""
        return self.total / jnp.maximum(self.count, 1e-12)


def cross_entropy(logits: Float[Array, "... C"], labels: Int[Array, "..."]) -> Float[Array, "..."]:
    """Negative log likelihood of the label in nats, float32."""
    logits = logits.astype(jnp.float32)
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - label_logits


def hits(logits: Float[Array, "... C"], labels: Int[Array, "..."]) -> Float[Array, "..."]:
    """1.0 where the label's logit is the largest, the first of equals, as an argmax takes it: were all of them right,
    so would be a model that gives all classes the same. Where logits are not numbers, nothing is right."""
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    before = jnp.arange(logits.shape[-1]) < labels[..., None]
    beaten = jnp.where(before, logits < label_logits, logits <= label_logits)  # neither, where one is not a number
    return (jnp.sum(beaten, axis=-1, dtype=jnp.int32) == logits.shape[-1]).astype(jnp.float32)


def classification(
    logits: Float[Array, "... C"], labels: Int[Array, "..."], weights: Float[Array, "..."]
) -> dict[str, Mean]:
    """What every classifying objective reports: `loss` in nats and `accuracy`, over the labels that have a weight."""
    return {
        "loss": Mean.of(cross_entropy(logits, labels), weights),
        "accuracy": Mean.of(hits(logits, labels), weights),
    }

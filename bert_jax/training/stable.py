"""StableAdamW with a trapezoidal learning rate, as ModernBERT is trained (Warner et al. 2024, arXiv 2412.13663, section
2.2)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from bert_jax.training.moments import scale_by_adam
from bert_jax.training.optim import Moments, clip_by_global_norm, decayed, layerwise, warmup_steps, whole_schedule


@dataclasses.dataclass(frozen=True)
class StableAdamW(Moments):
    """AdamW whose steps shrink, variable by variable, where gradients are larger than their running mean has seen
    (Wortsman et al. 2023, arXiv 2304.13013, algorithm 2); the defaults are those of ModernBERT-base's first phase.

    x <- x - rate / max(1, RMS) * (m / (sqrt(v) + eps) + weight_decay * x) with RMS^2 the mean of g^2 / max(v, eps^2).
    Moments are corrected for their bias. A variable is one of ModernBERT's: of stacked layers each alone; query, key
    and value are one.
    """

    learning_rate: float = 8e-4
    """Between warm-up and decay."""
    warmup: int | float = 0.001745
    """An integer is a number of steps; a fraction below 1 is a share of all steps: 3 of 1,719 billion tokens."""
    decay: int | float = 0.0
    """Of the last steps, in which the rate falls to 0: a number of them or their share; 0 never lets it fall."""
    decay_shape: Literal["linear", "one_minus_sqrt"] = "one_minus_sqrt"
    """Of the rate at x = 0..1 of the decay: 1 - x, or 1 - sqrt(x) (Hägele et al. 2024, arXiv 2405.18392)."""
    b2: float = 0.98
    """Decay of the running mean of the squared gradient."""
    weight_decay: float = 0.0125
    """Share of a parameter added to its update before the learning rate; never for norms and biases. 1e-5 in the
    released configuration, whose decay is not multiplied with the peak: 0.0125 x 8e-4."""
    clip_norm: float | None = None
    """Largest global norm of the gradient, clipped before the moments see it; None does not clip."""

    def __post_init__(self):
        super().__post_init__()
        if self.decay < 0 or (isinstance(self.decay, float) and self.decay >= 1):
            raise ValueError(
                "StableAdamW.decay must be an integer number of steps, or a fraction from 0, below 1, of all steps, "
                f"got {self.decay}"
            )

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step, counted from 0: linearly up, constant, down to 0 behind the last step. Raises
        ValueError where warm-up and decay do not fit into `total_steps`."""
        steps = whole_schedule(self, total_steps)
        up = warmup_steps(self.warmup, steps)
        down = self.decay if isinstance(self.decay, int) else int(steps * self.decay)
        if up + down > steps:
            raise ValueError(f"warm-up of {up} steps and decay of {down} are more than the {steps} steps in all")

        def rate(step):
            step = step + self.schedule_start
            done = jnp.clip((step - (steps - down)) / max(1, down), 0.0, 1.0)
            left = 1.0 - (done if self.decay_shape == "linear" else jnp.sqrt(done))
            return self.learning_rate * jnp.minimum(step / max(1, up) if up else 1.0, left)

        return rate

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `total_steps` updates; its `update` needs the parameters."""
        adam = scale_by_adam(self.b1, self.b2, self.eps, bias_correction=True, dtype=self.moments_dtype)
        step = optax.chain(adam, optax.add_decayed_weights(self.weight_decay, mask=decayed))
        return layerwise(
            optax.chain(
                optax.identity() if self.clip_norm is None else clip_by_global_norm(self.clip_norm),
                clip_update(step, self.b2, self.eps),
                optax.scale_by_learning_rate(self.schedule(total_steps)),
            ),
            self.layer_decay,
            self.frozen_layers,
        )


def clip_update(step: optax.GradientTransformation, b2: float, eps: float) -> optax.GradientTransformation:
    """`step`, a chain that begins with Adam, divided for each variable by the root mean square of g / sqrt(v), where
    that exceeds 1."""

    def update(gradients, state, params):
        updates, state = step.update(gradients, state, params)
        seen = optax.tree.bias_correction(optax.tree.cast(state[0].nu, jnp.float32), b2, state[0].count)

        def clipped(path, update, gradient, seen):
            stacked = any(getattr(key, "key", "") == "layers" for key in path)
            ratio = jnp.square(gradient.astype(jnp.float32)) / jnp.maximum(seen, eps**2)
            size = jnp.sqrt(jnp.mean(ratio, axis=tuple(range(int(stacked), ratio.ndim)), keepdims=True))
            return (update / jnp.maximum(1.0, size)).astype(update.dtype)

        return jax.tree_util.tree_map_with_path(clipped, updates, gradients, seen), state

    return optax.GradientTransformation(step.init, update)

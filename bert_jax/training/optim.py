"""BERT's optimizer and learning rate as the original trains them, and standard AdamW; `training.lamb` is the third.

They are frozen dataclasses: their fields are the command-line flags, `build(total_steps)` gives the optax
transformation and `schedule(total_steps)` the learning rate it uses (for logging). Line numbers are those of the
original's `optimization.py`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.training.moments import MomentsDtype, scale_by_adam


@dataclasses.dataclass(frozen=True)
class Moments:
    """What the optimizers with Adam's moments share."""

    learning_rate: float = 1e-4
    """Peak of the schedule. 1e-4 is the original's for pre-training; fine-tuning wants 2e-5 to 5e-5."""
    warmup: int | float = 0.1
    """An integer is a number of steps (10000); a fraction below 1 is a share of all steps (0.1)."""
    b1: float = 0.9
    """Decay of the running mean of the gradient."""
    b2: float = 0.999
    """Decay of the running mean of the squared gradient."""
    eps: float = 1e-6
    """Added to the root of the second moment, outside the root."""
    weight_decay: float = 0.01
    """Share of a parameter added to its update before the learning rate."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient, clipped before the moments see it; None does not clip."""
    layer_decay: float = 1.0
    """Learning rate of a layer as a share of that of the layer above it; heads and pooler have the full one."""
    frozen_layers: int | None = None
    """Embeddings and this many of the lowest layers are not trained; 0 freezes the embeddings alone, None nothing."""
    moments_dtype: MomentsDtype = "float32"
    """Of the two moments as they are stored; bfloat16 takes half the memory, rounded stochastically."""
    schedule_start: int = 0
    """Steps of the schedule that an earlier run has done."""
    schedule_steps: int | None = None
    """Steps of the whole schedule, of which this run is a part; its own if not given."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class BertAdam(Moments):
    """The original's optimizer: clipped gradients, Adam without bias correction, decoupled decay, warm-up and decay.

    Norms and biases do not decay.
    """

    bias_correction: bool = False
    """Divide the moments by 1 - b**t, as the Adam paper does and the original does not (steadier on few examples)."""

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step, counted from 0: `warmup_schedule`. ValueError if the warm-up fills `total_steps`."""
        return warmup_schedule(self, total_steps)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `total_steps` updates; its `update` needs the parameters.

        Order of the original: clip (74), moments (131-137), decay (146-147), learning rate (149). The first update
        has learning rate 0, because the original reads `global_step` before incrementing it (76-83).
        """
        adam = scale_by_adam(self.b1, self.b2, self.eps, bias_correction=self.bias_correction, dtype=self.moments_dtype)
        return layerwise(
            optax.chain(
                optax.identity() if self.clip_norm is None else clip_by_global_norm(self.clip_norm),
                adam,
                optax.add_decayed_weights(self.weight_decay, mask=decayed),
                optax.scale_by_learning_rate(self.schedule(total_steps)),
            ),
            self.layer_decay,
            self.frozen_layers,
        )


@dataclasses.dataclass(frozen=True)
class AdamW(Moments):
    """Standard AdamW (as `optax.adamw`): bias-corrected, eps 1e-8, warm-up to the peak and from there linearly to 0."""

    eps: float = 1e-8
    """Added to the root of the bias-corrected second moment, outside the root."""
    decay_all: bool = True
    """Decay every parameter, the convention of `optax.adamw`; False spares norms and biases as BERT does."""

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step, counted from 0: up to the peak, down to 0. ValueError as for `BertAdam`."""
        steps = whole_schedule(self, total_steps)
        warmup = warmup_steps(self.warmup, steps)
        down = optax.linear_schedule(self.learning_rate, 0.0, steps - warmup)
        both = optax.join_schedules([optax.linear_schedule(0.0, self.learning_rate, warmup), down], [warmup])
        return lambda step: both(step + self.schedule_start)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `total_steps` updates; its `update` needs the parameters."""
        adamw = optax.chain(  # in a chain of its own, as `optax.adamw` is, whose checkpoints it can read
            scale_by_adam(self.b1, self.b2, self.eps, bias_correction=True, dtype=self.moments_dtype),
            optax.add_decayed_weights(self.weight_decay, mask=None if self.decay_all else decayed),
            optax.scale_by_learning_rate(self.schedule(total_steps)),
        )
        clip = optax.identity() if self.clip_norm is None else clip_by_global_norm(self.clip_norm)
        return layerwise(optax.chain(clip, adamw), self.layer_decay, self.frozen_layers)


def decayed(params):
    """Which leaves of `params` weight decay applies to: a tree of bool, chosen by name.

    False where a component of the leaf's path contains "norm" or "bias" in any case: the original's patterns
    `LayerNorm`, `layer_norm`, `bias` (65, 159-167). So embedding tables and the pooler's kernel do decay.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(word in jax.tree_util.keystr(path).lower() for word in ("norm", "bias")), params
    )


def layerwise(
    optimizer: optax.GradientTransformation, layer_decay: float, frozen_layers: int | None
) -> optax.GradientTransformation:
    """`optimizer` with a learning rate that falls from layer to layer, and with its lowest layers frozen.

    The update of layer l = 1..N is scaled by `layer_decay ** (N + 1 - l)`, that of the embeddings (l = 0) by
    `layer_decay ** (N + 1)`; heads and pooler are not scaled (as ELECTRA fine-tunes, model/optimization.py:181-193).
    Gradients of frozen parameters are zero before the clipping sees them.
    """
    if layer_decay == 1.0 and frozen_layers is None:
        return optimizer

    def update_scale(depth, top):
        return layer_decay ** (top - depth) * gradient_scale(depth, top)

    def gradient_scale(depth, top):
        # Heads never: they are all there is where the encoder is not trained at all.
        return 1.0 if frozen_layers is None else jnp.float32((depth > frozen_layers) | (depth == top))

    return optax.chain(_scale_by_depth(gradient_scale), optimizer, _scale_by_depth(update_scale))


def depths(params):
    """The layer that each leaf of `params` belongs to: 0 for embeddings, l = 1..N along the leading axis of stacked
    layers, and N + 1 for all else; and N + 1."""
    named = jax.tree_util.tree_leaves_with_path(params)
    parts = [[str(key.key) for key in path if hasattr(key, "key")] for path, _ in named]
    layers = [leaf.shape[0] for names, (_, leaf) in zip(parts, named, strict=True) if "layers" in names]
    top = max(layers, default=0) + 1

    def depth(names, leaf):
        if "layers" in names:
            return jnp.arange(1, leaf.shape[0] + 1).reshape(-1, *(1,) * (leaf.ndim - 1))
        embeds = any(name.startswith("embeddings") for name in names)  # or projects them: `embeddings_project`
        return jnp.int32(0 if embeds else top)

    of_leaves = [depth(names, leaf) for names, (_, leaf) in zip(parts, named, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(params), of_leaves), top


def _scale_by_depth(scale) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        depth, top = depths(updates)
        return jax.tree.map(lambda leaf, layer: (leaf * scale(layer, top)).astype(leaf.dtype), updates, depth), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def warmup_steps(warmup: int | float, total_steps: int) -> int:
    """Steps of warm-up: `warmup` itself if an integer, else `int(total_steps * warmup)` (`run_classifier.py:845`).

    Raises ValueError if no step is left after it, or `total_steps` is not positive.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    steps = warmup if isinstance(warmup, int) else int(total_steps * warmup)
    if steps >= total_steps:
        raise ValueError(
            f"warm-up of {steps} steps leaves nothing of {total_steps} steps in all: "
            "take fewer warm-up steps, a fraction such as 0.1, or more steps"
        )
    return steps


def whole_schedule(optimizer: Any, total_steps: int) -> int:
    """Steps of the schedule that a run of `total_steps` is a part of; ValueError where it ends before the run."""
    start, steps = optimizer.schedule_start, optimizer.schedule_steps
    steps = start + total_steps if steps is None else steps
    if start + total_steps > steps:
        raise ValueError(
            f"schedule_steps {steps} end before the run does: it begins at schedule_start {start} and has "
            f"{total_steps} steps"
        )
    return steps


def warmup_schedule(optimizer: Any, total_steps: int, power: float = 1.0) -> optax.Schedule:
    """`warmup_linear` with the numbers of `optimizer`, for a run of `total_steps` that may be a part of a schedule."""
    steps = whole_schedule(optimizer, total_steps)
    whole = warmup_linear(optimizer.learning_rate, warmup_steps(optimizer.warmup, steps), steps, power)
    return lambda step: whole(step + optimizer.schedule_start)


def warmup_linear(peak: float, warmup_steps: int, total_steps: int, power: float = 1.0) -> optax.Schedule:
    """The original's learning rate (32-54), a function of the number of updates made before this one.

    During the warm-up `peak * step / warmup_steps`, so the first update changes nothing; from then on
    `peak * (1 - step / total_steps) ** power`, which has been falling since step 0: at the end of the warm-up the rate
    jumps down from `peak`, with power 1 by the share `warmup_steps / total_steps`. 0 from `total_steps` on. No warm-up
    if it is 0 steps.
    """
    decay = optax.polynomial_schedule(peak, 0.0, power=power, transition_steps=total_steps)
    if warmup_steps == 0:
        return decay
    return lambda step: jnp.where(step < warmup_steps, peak * step / warmup_steps, decay(step))


def clip_by_global_norm(clip_norm: float) -> optax.GradientTransformation:
    """Scales gradients whose global norm exceeds `clip_norm` down to it: `tf.clip_by_global_norm` (74).

    One product with a scalar, as there, which is fused into what reads the gradients; the quotient and the choice of
    `optax.clip_by_global_norm` make a second copy of them on CPU, and the whole update of a base model takes twice as
    long.
    """

    def update(gradients, state, params=None):
        del params
        scale = clip_norm * jnp.minimum(1 / optax.tree.norm(gradients), 1 / clip_norm)
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def check_fields(optimizer: Any) -> None:
    """Raises ValueError naming the field of `optimizer` that is out of range."""
    name, o = type(optimizer).__name__, optimizer
    limits = [
        ("learning_rate", 0 < o.learning_rate < math.inf, "a positive number"),
        ("warmup", o.warmup >= 0, "0 or more"),
        ("warmup", isinstance(o.warmup, int) or o.warmup < 1,
         "an integer number of steps, or a fraction below 1 of all steps"),
        ("b1", 0 <= o.b1 < 1, "at least 0 and below 1"),
        ("b2", 0 <= o.b2 < 1, "at least 0 and below 1"),
        ("eps", 0 < o.eps < math.inf, "a positive number"),
        ("weight_decay", 0 <= o.weight_decay < math.inf, "0 or more"),
        ("layer_decay", 0 < o.layer_decay <= 1, "above 0 and at most 1"),
        ("frozen_layers", o.frozen_layers is None or o.frozen_layers >= 0, "0 or more, or None to freeze nothing"),
        ("clip_norm", o.clip_norm is None or 0 < o.clip_norm < math.inf, "a positive number, or None not to clip"),
        ("decay_power", 0 < getattr(o, "decay_power", 1.0) < math.inf, "a positive number"),
        ("schedule_start", o.schedule_start >= 0, "0 or more"),
        ("schedule_steps", o.schedule_steps is None or o.schedule_steps >= 1, "at least 1, or None for the run's own"),
    ]  # fmt: skip
    for field, holds, wanted in limits:
        if not holds:
            raise ValueError(f"{name}.{field} must be {wanted}, got {getattr(o, field)}")

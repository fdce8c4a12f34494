"""LAMB, for batches of thousands of rows (You et al. 2019, arXiv 1904.00962), in the variants that go by that name."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from bert_jax.training.moments import scale_by_adam
from bert_jax.training.optim import Moments, clip_by_global_norm, decayed, layerwise, warmup_schedule


@dataclasses.dataclass(frozen=True)
class Lamb(Moments):
    """Adam's update with decay, scaled for each variable to the variable's own norm; the defaults are NVIDIA's recipe.

    x <- x - rate * |x| / |u| * u with u = m / (sqrt(v) + eps) + weight_decay * x; the ratio is 1 where |x| or |u| is 0.
    A variable is one of the original's: of stacked layers each alone, and query, key and value apart, which are stored
    as one kernel here. `optax.lamb` would take one norm over all layers of a stack.
    """

    learning_rate: float = 6e-3
    """Peak of the schedule. 6e-3 is for batches of 65,536 rows; it goes with the root of the batch (2e-4 for 64)."""
    warmup: int | float = 0.2843
    """An integer is a number of steps (2000); a fraction below 1 is a share of all steps (0.2843)."""
    decay_power: float = 0.5
    """From the warm-up on the rate is `learning_rate * (1 - step / steps) ** decay_power`; 1.0 falls linearly."""
    decay_all: bool = False
    """Decay norms and biases, too."""
    adapt_all: bool = False
    """Scale the updates of norms and biases to their norm, too; otherwise theirs is Adam's with the learning rate."""
    normalise: bool = False
    """Divide the gradient by its global norm, however small that is, in place of clipping it."""
    bias_correction: bool = True
    """Divide the moments by 1 - b**t."""

    def __post_init__(self):
        super().__post_init__()
        if self.normalise and self.clip_norm is not None:
            raise ValueError("Lamb.normalise takes the place of clipping: set clip_norm to None")

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step, counted from 0: `warmup_schedule`. NVIDIA counts from 1: its first update has a rate,
        and its last has none."""
        return warmup_schedule(self, total_steps, self.decay_power)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `total_steps` updates; its `update` needs the parameters."""
        if self.normalise:
            prepare = normalise_by_global_norm()
        else:
            prepare = optax.identity() if self.clip_norm is None else clip_by_global_norm(self.clip_norm)
        adam = scale_by_adam(self.b1, self.b2, self.eps, bias_correction=self.bias_correction, dtype=self.moments_dtype)
        return layerwise(
            optax.chain(
                prepare,
                adam,
                optax.add_decayed_weights(self.weight_decay, mask=None if self.decay_all else decayed),
                scale_by_trust_ratio(self.adapt_all),
                optax.scale_by_learning_rate(self.schedule(total_steps)),
            ),
            self.layer_decay,
            self.frozen_layers,
        )


Variant = Literal["paper", "authors", "nvidia", "nvlamb"]
VARIANTS: dict[Variant, dict[str, Any]] = {
    # Algorithm 2 as printed (version 5), with phi(z) = z: nothing is clipped, no variable is an exception.
    "paper": {"clip_norm": None, "decay_all": True, "adapt_all": True, "decay_power": 1.0},
    # The authors' code as google-research/albert ships it (lamb_optimizer.py, optimization.py:28-106): no bias
    # correction; names with LayerNorm, layer_norm or bias are neither decayed nor adapted; clipped at 1 before.
    "authors": {"bias_correction": False, "decay_power": 1.0},
    # NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT: apex `FusedLAMB` as run_pretraining.py calls it (of
    # csrc/multi_tensor_lamb.cu: divided by the global norm only where that exceeds 1; ratio 1 where nothing decays),
    # `PolyWarmUpScheduler` with degree 0.5.
    "nvidia": {},
    # developer.nvidia.com/blog/pretraining-bert-with-layer-wise-adaptive-learning-rates, and the same kernel with
    # `use_nvlamb`: gradients normalised before the moments, every variable adapted.
    "nvlamb": {"normalise": True, "clip_norm": None, "adapt_all": True},
}


def lamb(variant: Variant, **overrides) -> Lamb:
    """LAMB as one of its sources has it: `lamb("paper", learning_rate=1e-3)`. Raises KeyError for an unknown name."""
    return Lamb(**VARIANTS[variant] | overrides)


def scale_by_trust_ratio(adapt_all: bool) -> optax.GradientTransformation:
    """Scales the update of each variable to the norm of the variable; 1 where either is 0.

    Args:
        adapt_all: also those of norms and biases (by name, as `decayed`).
    """

    def update(updates, state, params):
        def scale(path, update, param, adapted):
            if not (adapt_all or adapted):
                return update
            axes = variable_axes(path, param)
            weight, length = _norm(param, axes), _norm(update, axes)
            there = (weight > 0) & (length > 0)
            return (update * jnp.where(there, weight / jnp.where(there, length, 1.0), 1.0)).astype(update.dtype)

        return jax.tree_util.tree_map_with_path(scale, updates, params, decayed(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def variable_axes(path: tuple, leaf: jax.Array) -> tuple[int, ...]:
    """The axes of a parameter that belong to one variable of the original.

    All, but for the leading axis N of stacked layers (`nn.stack`) and the axis J of query, key and value in a fused
    projection, whose kernel ends in J H K as its bias does (`nn.attention`).
    """
    names = [str(key.key) for key in path if hasattr(key, "key")]
    apart = {0} if "layers" in names else set()
    if "qkv" in names:
        apart.add(leaf.ndim - 3)
    return tuple(axis for axis in range(leaf.ndim) if axis not in apart)


def normalise_by_global_norm() -> optax.GradientTransformation:
    """Divides gradients by their global norm; zeros stay zeros."""

    def update(gradients, state, params=None):
        del params
        norm = optax.tree.norm(gradients)
        scale = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1.0), 0.0)
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _norm(x, axes):
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axes, keepdims=True))

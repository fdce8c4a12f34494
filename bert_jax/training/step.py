"""The training state, and the pure functions that a run consists of: initialise, train, evaluate, predict."""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bert_jax.training.accumulation import accumulated_gradient, micro_batches
from bert_jax.training.sharding import Together, optimizer_shardings, parameter_shardings


@flax.struct.dataclass
class State:
    """Everything that a run carries from step to step; the data position is the step.

    A tree of this form also holds what there is one of for each array, such as shardings.

    Attributes:
        step: int32 [], batches seen so far, also those whose update was skipped.
        seed: uint32 [], with the step and the example, all that random numbers are a function of.
        params: float32.
        opt_state: of the optimizer.
    """

    step: Any
    seed: Any
    params: Any
    opt_state: Any


# What a key is for, folded into the seed's key.
_INIT, _CORRUPT, _DROPOUT, _EVALUATE = range(4)


def _key(seed, purpose):
    return jax.random.fold_in(jax.random.key(seed), purpose)


def abstract_parameters(learner: nn.Module, batch: Mapping[str, Any]) -> Any:
    """Shapes of the parameters, boxed with their axis letters; of `batch` only the shapes matter."""

    def init(batch):
        batch = learner.corrupt(_key(0, _CORRUPT), 0, batch)
        return learner.init({"params": _key(0, _INIT)}, batch, False)["params"]

    return jax.eval_shape(init, batch)


def trained_parameters(learner: nn.Module, params: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the optimizer sees: all but those that the learner only reads."""
    read_only = getattr(learner, "read_only", ())
    return {name: part for name, part in params.items() if name not in read_only}


def state_shardings(
    learner: nn.Module, optimizer: optax.GradientTransformation, batch: Any, mesh: Mesh, boxed: Any = None
) -> State:
    """A sharding for every leaf of the state; `boxed` are the `abstract_parameters`, where they have been found."""
    boxed = abstract_parameters(learner, batch) if boxed is None else boxed
    params = parameter_shardings(boxed, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    trained, lie = trained_parameters(learner, nn.unbox(boxed)), trained_parameters(learner, params)
    return State(replicated, replicated, params, optimizer_shardings(optimizer, trained, lie, mesh))


def make_init(
    learner: nn.Module, optimizer: optax.GradientTransformation, shardings: State, together: Together
) -> Callable:
    """`init(seed, batch) -> State`, every leaf made where it belongs; the same numbers on any mesh.

    Of several runs together `seed` and the state have a leading axis, and `shardings` are `together.own` of one's.
    """

    def init(seed, batch):
        batch = learner.corrupt(_key(seed, _CORRUPT), 0, batch)
        params = nn.unbox(learner.init({"params": _key(seed, _INIT)}, batch, False)["params"])
        return State(jnp.int32(0), seed, params, optimizer.init(trained_parameters(learner, params)))

    return jax.jit(together.map(init, (0, None)), out_shardings=shardings)


def make_train_step(
    learner: nn.Module,
    optimizer: optax.GradientTransformation,
    shardings: State,
    together: Together,
    accumulate: int = 1,
) -> Callable:
    """`step(state, batch) -> state, metrics`; the state is donated. Of several runs together all of them have a leading
    axis.

    Metrics are the learner's `Mean`s over the global batch, and the scalars `loss`, `gradient_norm` (before clipping),
    `tokens` (real ones) and `skipped`. The gradient is that of the loss over the global batch, whatever the mesh, and
    also where the batch is computed in several micro-batches (`accumulate`), whose activations are in memory one after
    another.

    Where loss or gradient norm is not finite, the update is skipped: parameters and optimizer state stay what they
    were, only `step` goes on, to the next batch.
    """

    def step(state, batch):
        batch = learner.corrupt(_key(state.seed, _CORRUPT), state.step, batch)
        dropout = jax.random.fold_in(_key(state.seed, _DROPOUT), state.step)

        def metrics_of(trained, batch):
            params = {**state.params, **trained}
            with together.constraints():
                return learner.apply({"params": params}, batch, True, rngs={"dropout": dropout})

        def loss(trained):
            metrics = metrics_of(trained, batch)
            return learner.loss_of(metrics), metrics

        trained = trained_parameters(learner, state.params)
        if accumulate == 1:
            (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        else:
            parts = micro_batches(batch, accumulate, together)
            metrics, gradients = accumulated_gradient(learner, metrics_of, trained, batch, parts)
            value = learner.loss_of(metrics)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        updated = optax.apply_updates(trained, updates), opt_state
        # A choice of each element, which is fused into the update that computes it.
        trained, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), updated, (trained, state.opt_state)
        )
        scalars = {
            "loss": value,
            "gradient_norm": norm,
            "tokens": jnp.sum(batch["lengths"] * (batch["weight"] > 0)),
            "skipped": ~finite,
        }
        return State(state.step + 1, state.seed, {**state.params, **trained}, opt_state), (metrics, scalars)

    return jax.jit(
        together.map(step),
        donate_argnums=0,
        in_shardings=(shardings, together.batch),
        out_shardings=(shardings, together.replicated),
    )


def make_evaluate_step(learner: nn.Module, params: Any, together: Together) -> Callable:
    """`evaluate(params, seed, batch) -> metrics, predictions`: no dropout, the same corruption every time.

    `params` are the shardings of the parameters. Of several runs together all but the batch has a leading axis.
    """

    def evaluate(params, seed, batch):
        corrupted = learner.corrupt(_key(seed, _EVALUATE), 0, batch)
        metrics = learner.apply({"params": params}, corrupted, False)
        predictions = learner.apply({"params": params}, batch, method="predict")
        return metrics, predictions

    return jax.jit(
        together.map(evaluate, (0, 0, None)),
        in_shardings=(params, together.replicated, together.shared_batch),
        out_shardings=together.replicated,
    )

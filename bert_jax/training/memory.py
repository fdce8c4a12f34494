"""What a training step keeps in the memory of each device: estimated from shapes before anything is compiled, and as
the compiled step says."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.extend import core

from bert_jax.training.sharding import Together
from bert_jax.training.step import State, trained_parameters

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container: less than the machine has


@dataclass(frozen=True)
class Memory:
    """Bytes on each device, of all runs that it trains at once.

    Attributes:
        parameters, gradients, optimizer: exact, from shapes and shardings.
        activations: what the backward pass reads of the forward pass of one micro-batch. Tensor parallelism, which
            splits a part of them, is not counted.
        batch: the arrays of a whole batch.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    batch: int

    @property
    def total(self) -> int:
        """What a step needs, but for what XLA has between two of its operations."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.batch

    def __str__(self) -> str:
        parts = ("parameters", "gradients", "optimizer", "activations", "batch")
        return ", ".join(f"{name} {readable(getattr(self, name))}" for name in parts)


def estimate(
    learner: nn.Module,
    optimizer: optax.GradientTransformation,
    params: Any,
    shardings: State,
    batch: Mapping[str, Any],
    together: Together,
    accumulate: int = 1,
) -> Memory:
    """The memory of a training step, without compiling it.

    Args:
        params: their shapes.
        shardings: of one run.
        batch: of one run, as it is laid out; only its shapes matter.
        together, accumulate: as of `make_train_step`.
    """
    runs = together.count // (together.mesh.shape["data"] if together.axis else 1)  # of each device
    trained, lie = (trained_parameters(learner, tree) for tree in (params, shardings.params))
    moments = jax.eval_shape(optimizer.init, trained)
    own = {
        name: jax.ShapeDtypeStruct((leaf.shape[0] // (together.parts * accumulate), *leaf.shape[1:]), leaf.dtype)
        for name, leaf in batch.items()
    }
    return Memory(
        parameters=runs * _bytes(params, shardings.params),
        # Of the micro-batch, and their sum.
        gradients=runs * _bytes(trained, lie) * min(accumulate, 2),
        optimizer=runs * _bytes(moments, shardings.opt_state),
        activations=runs * residual_bytes(learner, params, own),
        batch=runs * accumulate * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in own.values()),
    )


def residual_bytes(learner: nn.Module, params: Any, batch: Mapping[str, Any]) -> int:
    """Bytes that the backward pass of a learner's loss reads, of shapes alone, besides parameters and batch.

    Masks are not counted: those of dropout are a function of a token's number, and XLA computes them where they are
    read.
    """

    def backward(params, batch):
        batch = learner.corrupt(jax.random.key(0), 0, batch)

        def loss(trained):
            variables = {"params": {**params, **trained}}
            return learner.loss_of(learner.apply(variables, batch, True, rngs={"dropout": jax.random.key(0)}))

        return jax.vjp(loss, trained_parameters(learner, params))[1]

    jaxpr = jax.make_jaxpr(backward)(params, batch).jaxpr
    given = {*jaxpr.invars, *jaxpr.constvars}
    kept = {var for var in jaxpr.outvars if not isinstance(var, core.Literal)} - given
    return sum(math.prod(var.aval.shape) * var.aval.dtype.itemsize for var in kept if var.aval.dtype != jnp.bool_)


def compiled_bytes(compiled: Any) -> int:
    """Bytes on each device that a compiled function needs: what it is given, returns, and has in between; what it
    returns in the place of what it was given is counted once."""
    found = compiled.memory_analysis()
    returned = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + returned + found.temp_size_in_bytes


def device_bytes() -> int | None:
    """Bytes that there are for each device of this process: of an accelerator what JAX may take of its memory, of a CPU
    its share of the main memory; None where that is not known."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    if not hasattr(os, "sysconf"):
        return None
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(there, there if limit == "max" else int(limit)) // jax.local_device_count()


def readable(size: int | float) -> str:
    """A number of bytes with three digits: 1.25 GiB."""
    unit = 0
    while size >= 1000 and unit < 4:
        size, unit = size / 1024, unit + 1
    digits = 0 if unit == 0 else max(0, 2 - int(math.log10(max(size, 1))))
    return f"{size:.{digits}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def _bytes(shapes: Any, shardings: Any) -> int:
    sizes = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize, shapes, shardings
    )
    return sum(jax.tree.leaves(sizes))

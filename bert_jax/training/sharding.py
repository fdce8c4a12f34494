"""Which axis letter is split over which axis of the device mesh: one table, and nothing of it in the maths.

A parameter says its axis letters (`Linear("BLD,DF->BLF")` has a kernel `D F`); the table says that `D` is split over
the mesh axis `fsdp` and `F` over `tensor`; XLA does the communication. On one device every axis has size 1.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
# A letter that is absent is never split. Where two letters of one array want the same mesh axis, the first gets it.
RULES = (("B", ("data", "fsdp")), ("D", "fsdp"), ("V", "tensor"), ("H", "tensor"), ("F", "tensor"))


@dataclass(frozen=True)
class MeshShape:
    """How many devices split what.

    Attributes:
        data: copies of the model, each with its part of the batch; 0 takes the devices that are left.
        fsdp: parts of the batch that also share the parameters and the optimizer state among them.
        tensor: parts of each layer.
    """

    data: int = 0
    fsdp: int = 1
    tensor: int = 1

    def build(self) -> Mesh:
        """The mesh over all devices. Raises ValueError where the shape does not use exactly these."""
        devices = jax.device_count()
        data = self.data or devices // (self.fsdp * self.tensor)
        if data * self.fsdp * self.tensor != devices:
            raise ValueError(
                f"mesh data {self.data} x fsdp {self.fsdp} x tensor {self.tensor} does not make the {devices} devices "
                "here; data 0 takes what the other two leave"
            )
        return jax.make_mesh((data, self.fsdp, self.tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError where the rows of a batch cannot be dealt out evenly."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ValueError(
            f"batch_size {batch_size} is not divisible by the {parts} devices that split it "
            f"(mesh data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}): take a multiple of {parts}"
        )


def parameter_shardings(boxed: Any, mesh: Mesh) -> Any:
    """A sharding for each parameter, from the axis letters in its box (`nn.with_logical_partitioning`).

    Raises ValueError for an axis that its part of the mesh does not divide.
    """
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)

    def check(path, leaf, sharding):
        for size, axis in zip(leaf.shape, sharding.spec, strict=False):
            parts = int(np.prod([mesh.shape[name] for name in ([axis] if isinstance(axis, str) else axis or [])]))
            if size % parts:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(
                    f"{name} {leaf.shape}: axis of size {size} cannot be split over {axis} = {parts} devices"
                )

    jax.tree_util.tree_map_with_path(check, nn.unbox(boxed), shardings)
    return shardings


def optimizer_shardings(optimizer: optax.GradientTransformation, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Moments lie where their parameters lie; everything else is replicated."""
    state = jax.eval_shape(optimizer.init, params)
    replicated = NamedSharding(mesh, PartitionSpec())
    return optax.tree_utils.tree_map_params(
        optimizer, lambda _, sharding: sharding, state, shardings, transform_non_params=lambda _: replicated
    )

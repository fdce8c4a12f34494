"""Which axis letter is split over which axis of the device mesh: one table, and nothing of it in the maths.

A parameter says its axis letters (`Linear("BLD,DF->BLF")` has a kernel `D F`); the table says that `D` is split over
the mesh axis `fsdp` and `F` over `tensor`; XLA does the communication. On one device every axis has size 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


@dataclass(frozen=True)
class Together:
    """Runs that one program trains at once: what each has its own (state, batch) gets a leading axis of runs.

    The runs are dealt out over the mesh axis `data` where it divides them: each device then trains its own, and nothing
    is communicated. Otherwise every run's rows are. One run alone has no leading axis, and nothing is changed.

    Attributes:
        mesh: of the devices.
        count: runs.
    """

    mesh: Mesh
    count: int = 1

    @property
    def axis(self) -> str | None:
        """The mesh axis that the runs are dealt out over."""
        return "data" if self.count > 1 and self.count % self.mesh.shape["data"] == 0 else None

    def map(self, function: Callable, in_axes: Any = 0) -> Callable:
        """`function` of one run as a function of all of them; `in_axes` as in `jax.vmap`."""
        return function if self.count == 1 else jax.vmap(function, in_axes, spmd_axis_name=self.axis)

    def own(self, shardings: Any) -> Any:
        """The shardings of what one run has, as those of what all have."""
        if self.count == 1:
            return shardings
        return jax.tree.map(lambda one: NamedSharding(self.mesh, PartitionSpec(self.axis, *one.spec)), shardings)

    @property
    def rows(self) -> tuple[str, ...]:
        """The mesh axes that the rows of a batch are split over."""
        return ("fsdp",) if self.axis else ("data", "fsdp")

    @property
    def parts(self) -> int:
        """Into how many parts devices split the rows of a batch."""
        return int(np.prod([self.mesh.shape[axis] for axis in self.rows]))

    @property
    def own_parts(self) -> tuple[int, ...] | None:
        """Those of the parts that devices of this process hold; None where it is the only one."""
        if jax.process_count() == 1:
            return None
        held = self.shared_batch.addressable_devices_indices_map((self.parts,)).values()
        return tuple(sorted({part for (rows,) in held for part in range(*rows.indices(self.parts))}))

    def own_examples(self, batch_size: int) -> slice | np.ndarray:
        """Those of a global batch that this process reads."""
        if self.own_parts is None:
            return slice(None)
        return np.arange(batch_size).reshape(self.parts, -1)[list(self.own_parts)].reshape(-1)

    def put(self, batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
        """A global batch on the devices, of the rows that each process has read."""
        return jax.make_array_from_process_local_data(sharding, dict(batch))

    @property
    def batch(self) -> NamedSharding:
        """Of batches for training, each run's own."""
        return self.own(self.shared_batch)

    @property
    def shared_batch(self) -> NamedSharding:
        """Of a batch for evaluation, the same for all runs."""
        return NamedSharding(self.mesh, PartitionSpec(self.rows))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @contextmanager
    def constraints(self) -> Iterator[None]:
        """In it the `nn.with_logical_constraint`s of a model hold, which name letters; without it they do nothing."""
        rules = [(letter, self.rows if letter == "B" else axis) for letter, axis in RULES]
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh), nn.logical_axis_rules(rules):
            yield

    def split(self, tree: Any) -> list[Any]:
        """What each run has, of arrays that all have."""
        if self.count == 1:
            return [tree]
        return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(self.count)]

    def stack(self, trees: Sequence[Any]) -> Any:
        """The inverse of `split`, of numpy arrays."""
        return trees[0] if self.count == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def check_batch_size(batch_size: int, together: Together) -> None:
    """Raises ValueError where the rows of a batch cannot be dealt out evenly."""
    mesh, parts = together.mesh, together.parts
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

"""Several processes, on one host or many, that train one run: how they find each other."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import jax

# How many tasks a launcher has started, in the environment of each of them: `srun` of SLURM, `mpirun` of Open MPI.
LAUNCHED = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# Seconds without a sign of life after which a process counts as dead, and all the others end.
HEARTBEAT_SECONDS = 30


@dataclass(frozen=True)
class Processes:
    """Of which several train one run; each is started with the same command, and sees the same files.

    Attributes:
        coordinator: host:port at which process 0 answers the others; found out with `detect`.
        count: processes in all.
        index: of this one, from 0.
        detect: ask the cluster for all three (SLURM, Open MPI, Kubernetes, TPU pods: `jax.distributed`). Where `srun`
            or `mpirun` has started several tasks this is done unasked: each would else be a run of its own.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    detect: bool = False

    def __post_init__(self):
        given = {name: getattr(self, name) for name in ("coordinator", "count", "index")}
        missing = [name for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise ValueError(
                f"processes: {', '.join(missing)} not given; --processes.coordinator HOST:PORT, --processes.count and "
                "--processes.index belong together (or --processes.detect alone)"
            )
        if missing:
            return
        if self.detect:
            raise ValueError("processes: give coordinator, count and index, or detect, which asks the cluster for them")
        if not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"processes: coordinator {self.coordinator!r} names no port; wanted is HOST:PORT")
        if not 0 <= self.index < self.count:
            raise ValueError(f"processes: index {self.index} is none of 0 to {self.count - 1}")

    def are_several(self, environment: Mapping[str, str] = os.environ) -> bool:
        """Whether this process is to `join` others."""
        launched = any(int(environment.get(name) or 1) > 1 for name in LAUNCHED)
        return self.coordinator is not None or self.detect or launched

    def join(self) -> bool:
        """Waits for the others, if there are any; from then on `jax.devices()` are those of all. True where it did.

        To be called before the process first uses JAX's devices. Where one of them dies, the others end with an error
        once it has been silent for `HEARTBEAT_SECONDS`. Raises RuntimeError where they do not find each other.
        """
        if not self.are_several() or jax.distributed.is_initialized():
            return False
        jax.distributed.initialize(
            self.coordinator, self.count, self.index, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
        return True


def writes() -> bool:
    """Whether this process is the one that writes what there is one of: logs, tables, records."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when all processes have come to the place `name`."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils  # which uses devices when it is imported

        multihost_utils.sync_global_devices(name)

"""How many JAX devices the cores of a CPU make."""

import os

import jax

# Of one run. More were not faster, and each holds its copy of the weights.
DEVICES = 2
# Of XLA's pool, for each device. A device can be in several exchanges with the others at once, of loops that do not
# depend on each other (a BiLSTM's), and an exchange holds a thread until the last device has one for it: eight devices
# with eight threads, XLA's own choice on four cores, waited for each other until XLA aborted the process.
THREADS = 2


def split_cores(cores: int, seeds: int, *batch_sizes: int) -> bool:
    """Has JAX make several devices of a CPU; True where it will.

    XLA runs small operations, and batches of small products such as attention's, on one core. So a run gets two
    devices, each for half of its batches; of several `seeds` at once each gets its own, since the products of all of
    them together would be such a batch. A choice of the user's wins (`JAX_NUM_CPU_DEVICES`), one core stays one device,
    and batches that two cannot share leave it at one. To be called before the process first uses JAX's devices; those
    of an accelerator stay as they are.
    """
    chosen = jax.config.jax_num_cpu_devices > 0 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    enough_threads(cores, max(jax.config.jax_num_cpu_devices, DEVICES))
    if chosen or cores < DEVICES or (seeds == 1 and any(size % DEVICES for size in batch_sizes)):
        return False
    jax.config.update("jax_num_cpu_devices", seeds if seeds > 1 else DEVICES)
    return True


def enough_threads(cores: int, devices: int) -> None:
    """Has XLA start enough threads for so many devices of a CPU; a number in NPROC, which it reads, stays."""
    os.environ.setdefault("NPROC", str(max(cores, THREADS * devices)))

"""How many JAX devices the cores of a CPU make."""

import os

import jax

# More than two were not faster, and each holds its copy of the weights.
DEVICES = 2


def split_cores(cores: int, *batch_sizes: int) -> bool:
    """Has JAX make two devices of a CPU, each for half of a batch; True where it will.

    XLA runs small operations, and batches of small products such as attention's, on one core; with two devices the
    other half is computed meanwhile. A choice of the user's wins (`JAX_NUM_CPU_DEVICES`), one core stays one device,
    and batches that two cannot share leave it at one. To be called before the process first uses JAX's devices; those
    of an accelerator stay as they are.
    """
    chosen = jax.config.jax_num_cpu_devices > 0 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or cores < DEVICES or any(size % DEVICES for size in batch_sizes):
        return False
    jax.config.update("jax_num_cpu_devices", DEVICES)
    return True

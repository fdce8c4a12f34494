"""Two devices of a CPU: where a run takes them, and where it must not."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, os, sys
from bert_jax.training.cpu_devices import split_cores
print(split_cores(*map(int, sys.argv[1:])), jax.device_count(), os.environ["NPROC"])
"""


def devices(*arguments: int, **variables: str) -> list[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "NPROC")
    }
    program = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(
        program, capture_output=True, text=True, check=True, env=environment | variables
    ).stdout.split()


def test_two_where_batches_can_be_shared():
    """What makes a step on a CPU faster."""
    assert devices(4, 1, 32, 256) == ["True", "2", "4"]


def test_a_device_for_each_of_several_seeds():
    """However many cores there are, and whatever the size of a batch, which is then not shared."""
    assert devices(2, 5, 33) == ["True", "5", "4"]


@pytest.mark.parametrize(
    ("arguments", "variables", "want"),
    [
        ((1, 1, 32), {}, ["1", "4"]),
        ((6, 1, 32, 5), {}, ["1", "6"]),
        ((4, 1, 32), {"JAX_NUM_CPU_DEVICES": "3"}, ["3", "6"]),
        ((4, 1, 32), {"JAX_NUM_CPU_DEVICES": "3", "NPROC": "5"}, ["3", "5"]),
        ((4, 5, 32), {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, ["4", "4"]),
    ],
    ids=["one core", "odd batch", "chosen", "threads chosen", "chosen by flag"],
)
def test_otherwise_as_it_was(arguments, variables, want):
    """One core has nothing to share, an odd batch would be refused, and who has chosen has chosen. Each device has two
    threads, which XLA by itself does not see to: without, eight on four cores wait for each other without end."""
    assert devices(*arguments, **variables) == ["False", *want]

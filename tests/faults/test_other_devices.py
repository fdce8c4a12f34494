"""A run continued on another number of devices, and split in another way: the same loss curve."""

import signal

import numpy as np
import pytest

from tests.faults.tiny_run import checkpoints, finish, metrics, read_until, run, start

# Devices and mesh of the first half, and of the second.
MOVES = {
    "1 to 8": ((1, ()), (8, ("--mesh.data", "8"))),
    "8 to 2": ((8, ("--mesh.data", "8")), (2, ("--mesh.data", "2"))),
    "fully sharded to replicated": ((4, ("--mesh.data", "1", "--mesh.fsdp", "4")), (4, ("--mesh.data", "4"))),
    "replicated to fully sharded": ((2, ("--mesh.data", "2")), (8, ("--mesh.data", "2", "--mesh.fsdp", "4"))),
    "8 to 1": ((8, ("--mesh.data", "2", "--mesh.fsdp", "4")), (1, ())),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", MOVES)
def test_moves(program, straight, tmp_path, name):
    """Losses of every step and evaluation as on the devices of the undisturbed run, to the rounding of
    sums in another order."""
    workdir, (before, after) = tmp_path / "run", MOVES[name]
    process = start(program, workdir, *before[1], pause=0.1, JAX_NUM_CPU_DEVICES=str(before[0]))
    said = read_until(process, 10)
    assert f"{before[0]} x " in "".join(said)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 75
    saved = checkpoints(workdir)[-1]
    said = run(program, workdir, *after[1], JAX_NUM_CPU_DEVICES=str(after[0]))
    assert f"continues after step {saved}\n" in said and f"\n{after[0]} x " in said, said
    found, wanted = metrics(workdir), metrics(straight)
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    differences = [
        abs(line[key] - other[key]) / abs(other[key])
        for line, other in zip(found, wanted, strict=True)
        for key in line
        if key.endswith("loss")
    ]
    print(f"\n{name}: largest relative difference of {len(differences)} losses {max(differences):.1e}")
    assert np.max(differences) < 2e-5

"""Several real processes that train one run: the same numbers however many, each reads its part, none hangs."""

import os
import signal
import socket
import time

import jax
import numpy as np
import pytest

from bert_jax.training.checkpoint import restore_params
from bert_jax.training.processes import Processes
from tests.faults.tiny_run import metrics, start

BATCH, VALID = 64, 64
# Notes which examples a process reads.
NOTED = """
    import bert_jax.tasks.pretraining as pretraining

    class Noted(pretraining.Corpus):
        def read(self, indices):
            with open(os.environ["NOTES"], "a") as file:
                print(self.split, *indices.tolist(), file=file)
            return super().read(indices)

    pretraining.Corpus = Noted
"""
# A shorter one than a run's, so that a test need not wait half a minute.
SOON = "from bert_jax.training import processes; processes.HEARTBEAT_SECONDS = 10"


@pytest.fixture
def start_several(program):
    """`start_several(workdir, count, devices, *flags, ...)`: processes of one run with `devices` each. None of them
    outlives the test."""
    started = []

    def of_one_run(workdir, count, devices, *flags, fault="", pause=0.0, notes=""):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = []
        for index in range(count):
            several = f"--processes.coordinator 127.0.0.1:{port} --processes.count {count} --processes.index {index}"
            variables = {"JAX_NUM_CPU_DEVICES": str(devices), "NOTES": notes.format(index=index)}
            several = several.split() if count > 1 else []
            own.append(start(program, workdir, *flags, *several, pause=pause, fault=fault, **variables))
        started.extend(own)
        return own

    yield of_one_run
    for process in started:
        process.kill()
        process.communicate()


def finish(started, timeout=300):
    """Exit status of each, and what they said."""
    said = [process.communicate(timeout=timeout)[0] for process in started]
    return [process.returncode for process in started], said


def wait_for_step(workdir, step):
    """Until that step is in the log."""
    for _ in range(6000):
        if (workdir / "metrics.jsonl").exists() and any(line["step"] >= step for line in metrics(workdir)):
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in {workdir}")


def assert_nearly_the_same_run(workdir, alone):
    """Metrics of each step, once each, within 2e-5 of their size, and parameters within 1e-5: the order of sums
    differs, and Adam divides by the root of the moments."""
    lines, wanted = metrics(workdir), metrics(alone)
    assert [line.keys() for line in lines] == [line.keys() for line in wanted]
    values, own = (np.array([value for line in of_run for value in line.values()]) for of_run in (lines, wanted))
    got, wanted = (restore_params(folder / "checkpoints") for folder in (workdir, alone))
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    apart = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (got, wanted)), strict=True))
    relative = np.abs(values - own) / np.maximum(np.abs(own), 1e-3)
    print(f"\nlargest difference of a metric {relative.max():.1e} of its size, of a parameter {apart:.1e}")
    assert relative.max() < 2e-5 and apart < 1e-5


@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [
        pytest.param(2, 2, "", marks=pytest.mark.faults),
        pytest.param(4, 1, "", marks=pytest.mark.faults),
        pytest.param(2, 2, "--mesh.data 2 --mesh.tensor 2", marks=pytest.mark.faults),
        pytest.param(2, 2, "--accumulate 4", marks=pytest.mark.faults),
        (2, 2, "--mesh.fsdp 4"),
    ],
)
def test_any_number_of_processes_is_the_same_run(start_several, straight, tmp_path, count, devices, mesh):
    """1 x 1 = 2 x 2 = 4 x 1, copies of the model or parts of it: training, evaluation, checkpoints; each example is
    read by one of them, and only one of them writes the log."""
    started = start_several(
        tmp_path / "run", count, devices, *mesh.split(), fault=NOTED, notes=str(tmp_path / "notes-{index}")
    )
    codes, said = finish(started)
    assert codes == [0] * count, said
    assert_nearly_the_same_run(tmp_path / "run", straight)
    assert f"{count} processes" in said[0] and not any("train" in others for others in said[1:]), said
    evaluated, steps = set(), metrics(straight)[-1]["step"]
    for index in range(count):
        lines = [line.split() for line in (tmp_path / f"notes-{index}").read_text().splitlines()]
        own = [len(line) - 1 for line in lines if line[0] == "train"]
        assert own.count(BATCH) == 1  # for the shapes of a batch, and then its part of each
        assert own.count(BATCH // count) == steps
        evaluated |= {example for split, *examples in lines if split == "valid" for example in examples}
    assert len(evaluated) == VALID


def test_stopped_and_continued_by_another_number_of_processes(start_several, straight, tmp_path):
    """SIGTERM to one of two: both stop after the same step, saved, with status 75; one process with eight devices
    continues, and the run is the undisturbed one."""
    workdir = tmp_path / "run"
    started = start_several(workdir, 2, 2, "--mesh.fsdp", "2", pause=0.2)
    wait_for_step(workdir, 4)
    started[1].send_signal(signal.SIGTERM)
    codes, said = finish(started)
    assert codes == [75, 75], said
    stopped = metrics(workdir)[-1]["step"]
    assert 4 <= stopped < metrics(straight)[-1]["step"]
    codes, said = finish(start_several(workdir, 1, 8))
    assert codes == [0] and f"continues after step {stopped}\n" in said[0], said
    assert_nearly_the_same_run(workdir, straight)


@pytest.mark.faults
def test_processes_of_a_cluster_find_each_other(program, straight, tmp_path):
    """With no flag, in the environment that `srun -n 2` gives its tasks."""
    tasks = []
    for index in (0, 1):
        step = {"JOB_ID": str(os.getpid()), "STEP_NODELIST": "localhost", "NTASKS": "2", "STEP_NUM_TASKS": "2"}
        step |= {"PROCID": str(index), "LOCALID": str(index)}
        variables = {f"SLURM_{name}": value for name, value in step.items()}
        tasks.append(start(program, tmp_path / "run", JAX_NUM_CPU_DEVICES="1", **variables))
    try:
        codes, said = finish(tasks)
    finally:
        for task in tasks:
            task.kill()
    assert codes == [0, 0] and "2 processes" in said[0], said
    assert_nearly_the_same_run(tmp_path / "run", straight)


@pytest.mark.faults
@pytest.mark.parametrize("dying", [0, 1])
def test_one_process_dies(start_several, straight, tmp_path, dying):
    """Killed, it takes the other down within a minute (seconds here, by a short heartbeat), with an error and without a
    hang; then the same command continues to the undisturbed run."""
    workdir = tmp_path / "run"
    started = start_several(workdir, 2, 2, fault=SOON, pause=0.2)
    wait_for_step(workdir, 10)
    started[dying].kill()
    began = time.monotonic()
    codes, said = finish(started, timeout=60)
    seconds = time.monotonic() - began
    print(f"\nprocess {dying} killed: the other ended after {seconds:.1f} s, status {codes[1 - dying]}")
    assert codes[1 - dying] not in (0, 75) and codes[dying] == -signal.SIGKILL, said
    codes, said = finish(start_several(workdir, 2, 2))
    assert codes == [0, 0] and "continues after step" in said[0], said
    assert_nearly_the_same_run(workdir, straight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 2}, "coordinator, index not given"),
        ({"coordinator": "here", "count": 2, "index": 0}, "names no port"),
        ({"coordinator": "here:1", "count": 2, "index": 2}, "index 2 is none of 0 to 1"),
        ({"coordinator": "here:1", "count": 2, "index": 1, "detect": True}, "or detect"),
    ],
)
def test_flags_that_do_not_fit(fields, message):
    """Found before anybody waits for anybody."""
    with pytest.raises(ValueError, match=message):
        Processes(**fields)


def test_a_launcher_that_started_several_is_noticed():
    """Each of them would else be a run of its own, on the same workdir."""
    assert Processes().are_several({"SLURM_STEP_NUM_TASKS": "2"})
    assert Processes().are_several({"OMPI_COMM_WORLD_SIZE": "8"})
    assert not Processes().are_several({"SLURM_STEP_NUM_TASKS": "1"})
    assert not Processes().are_several({})

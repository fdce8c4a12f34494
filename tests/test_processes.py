"""Several real processes that train one run: the same numbers however many, each reads its part, none hangs."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics

STEPS, BATCH, VALID = 12, 16, 24
PROGRAM = '''
    """A tiny pre-training with dropout on packed rows; notes which examples this process reads."""

    import os
    import time
    from pathlib import Path

    import jax

    from bert_jax import train
    from bert_jax.data.corpus import Corpus
    from bert_jax.experiment import Experiment
    from bert_jax.learners.multitask import Multitask
    from bert_jax.models.bert import Bert
    from bert_jax.objectives.mlm import Mlm
    from bert_jax.objectives.nsp import Nsp
    from bert_jax.tasks.pretraining import Pretraining
    from bert_jax.training import processes
    from bert_jax.training.log import Logger
    from bert_jax.training.optim import BertAdam

    class PacedLogger(Logger):
        def log(self, step, metrics):
            super().log(step, metrics)
            time.sleep(float(os.environ.get("PAUSE", 0)))

    class Noted(Corpus):
        def read(self, indices):
            with open(os.environ["NOTES"], "a") as file:
                print(self.split, *indices.tolist(), file=file)
            return super().read(indices)

    def config():
        encoder = Bert(num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=32, init_stddev=0.1)
        return Experiment(
            task=Pretraining(Path({corpus!r}), valid_limit={valid}),
            learner=Multitask(encoder, {{"mlm": Mlm(max_predictions=5), "nsp": Nsp()}}),
            optimizer=BertAdam(learning_rate=1e-2),
            steps={steps},
            batch_size={batch},
            eval_batch_size={batch},
            log_every=1,
            eval_every=6,
            checkpoint_every=6,
            best_metric="valid/mlm/loss",
        )

    if __name__ == "__main__":
        train.Logger = PacedLogger
        if "NOTES" in os.environ:
            import bert_jax.tasks.pretraining as pretraining
            pretraining.Corpus = Noted
        processes.HEARTBEAT_SECONDS = 10
        train.main(config)
'''


@pytest.fixture(scope="module")
def program(tiny_corpus, tmp_path_factory):
    """The experiment file."""
    path = tmp_path_factory.mktemp("experiments") / "tiny.py"
    text = textwrap.dedent(PROGRAM)
    path.write_text(text.format(corpus=str(tiny_corpus), steps=STEPS, batch=BATCH, valid=VALID))
    return path


@pytest.fixture
def start(program):
    """`start(workdir, count, devices, *flags, **environment)`: processes of one run with `devices` each; one alone is
    started without any flag. None of them outlives the test."""
    started = []

    def start(workdir, count, devices, *flags, **environment):
        own = processes_of(program, workdir, count, devices, *flags, **environment)
        started.extend(own)
        return own

    yield start
    for process in started:
        process.kill()
        process.communicate()


def processes_of(program, workdir, count, devices, *flags, **environment):
    """The processes, started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for index in range(count):
        several = f"--processes.coordinator 127.0.0.1:{port} --processes.count {count} --processes.index {index}"
        variables = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(Path(__file__).parents[1])}
        variables |= {name: value.format(index=index) for name, value in environment.items()}
        started.append(
            subprocess.Popen(
                [sys.executable, program, "--workdir", workdir, *flags, *(several.split() if count > 1 else ())],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | variables,
            )
        )  # fmt: skip
    return started


def finish(started, timeout=300):
    """Exit status of each, and what they said."""
    said = [process.communicate(timeout=timeout)[0] for process in started]
    return [process.returncode for process in started], said


def wait_for_step(workdir, step):
    """Until that step is in the log."""
    file = workdir / "metrics.jsonl"
    for _ in range(6000):
        if file.exists() and any(line["step"] >= step for line in read_metrics(file)):
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in {file}")


def metrics(workdir):
    """(step, metrics) of every line, without what depends on the clock."""
    clock = ("time", "train/examples_per_second", "train/tokens_per_second", "train/mfu")
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def assert_the_same_run(workdir, alone):
    """Metrics of each step, once each, within 1e-5 of their size, and parameters within 1e-5 after 12 updates of up to
    0.01: the order of sums differs, and Adam divides by the root of the moments."""
    lines, wanted = metrics(workdir), metrics(alone)
    assert [line.keys() for line in lines] == [line.keys() for line in wanted]
    for line, own in zip(lines, wanted, strict=True):
        np.testing.assert_allclose(list(line.values()), list(own.values()), rtol=1e-5, err_msg=str(line["step"]))
    got, wanted = (restore_params(folder / "checkpoints") for folder in (workdir, alone))
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def alone(program, tmp_path_factory):
    """The workdir of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    codes, said = finish(processes_of(program, workdir, 1, 4))
    assert codes == [0], said
    return workdir


@pytest.mark.parametrize(("count", "devices", "mesh"), [(2, 2, ""), (4, 1, ""), (2, 2, "--mesh.fsdp 4")])
def test_any_number_of_processes_is_the_same_run(start, alone, tmp_path, count, devices, mesh):
    """1 x 4 = 2 x 2 = 4 x 1, copies of the model or parts of it: training, evaluation, checkpoints; each example is
    read by one of them, and only one of them writes the log."""
    notes = tmp_path / "notes-{index}"
    started = start(tmp_path / "run", count, devices, *mesh.split(), NOTES=str(notes))
    codes, said = finish(started)
    assert codes == [0] * count, said
    assert_the_same_run(tmp_path / "run", alone)
    assert f"{count} processes" in said[0] and not any("train" in others for others in said[1:]), said
    evaluated = set()
    for index in range(count):
        lines = [line.split() for line in (tmp_path / f"notes-{index}").read_text().splitlines()]
        sizes = [len(line) - 1 for line in lines]
        assert sizes.count(BATCH) == 1  # for the shapes of a batch; after that
        assert sizes.count(BATCH // count) >= STEPS + 2 * 2  # the batches, and those of two evaluations
        evaluated |= {example for split, *examples in lines if split == "valid" for example in examples}
    assert len(evaluated) == VALID


def test_stopped_and_continued_by_another_number_of_processes(start, alone, tmp_path):
    """SIGTERM to one of two: both stop after the same step, saved, with status 75; one process with eight devices
    continues, and the run is the undisturbed one."""
    workdir = tmp_path / "run"
    started = start(workdir, 2, 2, "--mesh.fsdp", "2", PAUSE="0.2")
    wait_for_step(workdir, 4)
    started[1].send_signal(signal.SIGTERM)
    codes, said = finish(started)
    assert codes == [75, 75], said
    stopped = metrics(workdir)[-1]["step"]
    assert 4 <= stopped < STEPS
    codes, said = finish(start(workdir, 1, 8))
    assert codes == [0] and f"continues after step {stopped}" in said[0], said
    assert_the_same_run(workdir, alone)


@pytest.mark.parametrize("dying", [0, 1])
def test_one_process_dies(start, alone, tmp_path, dying):
    """Killed, it takes the other down within a minute (seconds here, by a short heartbeat), with an error and without a
    hang; then the same command continues to the undisturbed run."""
    workdir = tmp_path / "run"
    started = start(workdir, 2, 2, PAUSE="0.2")
    wait_for_step(workdir, 8)
    started[dying].kill()
    began = time.monotonic()
    codes, said = finish(started, timeout=60)
    assert time.monotonic() - began < 60
    assert codes[1 - dying] not in (0, 75) and codes[dying] == -signal.SIGKILL, said
    codes, said = finish(start(workdir, 2, 2))
    assert codes == [0, 0] and "continues after step 6" in said[0], said
    assert_the_same_run(workdir, alone)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--processes.count 2", "coordinator, index not given"),
        ("--processes.coordinator here --processes.count 2 --processes.index 0", "names no port"),
        ("--processes.coordinator here:1 --processes.count 2 --processes.index 2", "index 2 is none of 0 to 1"),
        ("--processes.coordinator here:1 --processes.count 2 --processes.index 1 --processes.detect", "or detect"),
    ],
)
def test_flags_that_do_not_fit(flags, message):
    """Found before anybody waits for anybody."""
    from bert_jax.training.processes import Processes

    words = [word.removeprefix("--processes.") for word in flags.split()]
    fields = {"detect": True} if "detect" in words else {}
    for name, kind in (("coordinator", str), ("count", int), ("index", int)):
        if name in words:
            fields[name] = kind(words[words.index(name) + 1])
    with pytest.raises(ValueError, match=message):
        Processes(**fields)


def test_a_launcher_that_started_several_is_noticed():
    """Each of them would else be a run of its own, on the same workdir."""
    from bert_jax.training.processes import Processes

    assert Processes().are_several({"SLURM_STEP_NUM_TASKS": "2"})
    assert Processes().are_several({"OMPI_COMM_WORLD_SIZE": "8"})
    assert not Processes().are_several({"SLURM_STEP_NUM_TASKS": "1"})
    assert not Processes().are_several({})

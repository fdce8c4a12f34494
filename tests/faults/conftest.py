"""What the fault tests share: one tiny experiment, and the run of it that nothing happened to."""

import pytest

from tests.faults.tiny_run import run, write_program

STEPS = 24


@pytest.fixture(scope="session")
def program(tiny_corpus, tmp_path_factory):
    """The experiment file: 24 steps, a checkpoint every 4, an evaluation every 8."""
    return write_program(tmp_path_factory.mktemp("experiments"), tiny_corpus, STEPS, 4, 8)


@pytest.fixture(scope="session")
def straight(program, tmp_path_factory):
    """The workdir of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    run(program, workdir)
    return workdir

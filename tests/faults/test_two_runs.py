"""Two runs in one workdir: the second refuses, and the first does not notice."""

import re

import pytest

from tests.faults.tiny_run import assert_the_same_run, finish, read_until, start


def test_the_second_refuses(program, straight, tmp_path):
    """Also while the first is in the middle of its steps; it says whose the workdir is. The kernel's lock ends with the
    process: the kill tests restart without anything left over."""
    workdir = tmp_path / "run"
    first = start(program, workdir, pause=0.3)
    read_until(first, 1)
    code, said = finish(start(program, workdir))
    assert code == 1
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.search(rf"{workdir} is in use by another run: .*\"pid\": {first.pid}, \"host\": ", error), error
    assert first.poll() is None, "the first is still running"
    code, said = finish(first)
    assert code == 0, said
    assert_the_same_run(workdir, straight)


@pytest.mark.faults
def test_a_member_of_several_seeds(program, tmp_path):
    """The folder of one seed is in use while all of them train."""
    several = start(program, tmp_path / "runs", "--seeds", "2", pause=0.3)
    read_until(several, 1)
    code, said = finish(start(program, tmp_path / "runs/seed-12346", "--seed", "12346"))
    assert code == 1 and f'runs/seed-12346 is in use by another run: {{"pid": {several.pid}, ' in said, said
    assert finish(several)[0] == 0

"""No room for a checkpoint: the run ends with a clear error, what was saved is intact, and it goes on when there is."""

import shutil
import subprocess

import pytest

from tests.faults.tiny_run import assert_the_same_run, checkpoints, finish, run, start

# From step 10 on no file of the process may grow beyond 20 kB: the arrays of a checkpoint do not fit, logs do.
LIMIT = """
import resource
class Full(PacedLogger):
    def log(self, step, metrics):
        super().log(step, metrics)
        if step == 10:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
members.Logger = Full
"""


def assert_stopped(code, said, workdir):
    """One error line; the checkpoints of steps 4 and 8 are there, nothing that looks like one of step 12 is."""
    assert code == 1, said
    last = said.splitlines()[-1]
    assert last.startswith(f"error: checkpoint {workdir}/checkpoints/12 was not saved"), said
    assert "those before it are as they were (4, 8)" in last
    assert checkpoints(workdir) == [4, 8]


@pytest.mark.faults
def test_files_may_not_grow(program, straight, tmp_path):
    """A limit on the size of files (`ulimit -f`), which stands for a disk without room."""
    workdir = tmp_path / "run"
    assert_stopped(*finish(start(program, workdir, pause=0.2, fault=LIMIT)), workdir)
    assert "continues after step 8\n" in run(program, workdir)
    assert_the_same_run(workdir, straight)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB of its own; where mounting one is not allowed, the test is skipped."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.faults
@pytest.mark.skipif(not shutil.which("mount"), reason="needs mount")
def test_disk_is_full(program, straight, small_disk):
    """From step 10 on another file takes all room; the save, or a line of the log, finds none."""
    fill = f"""
    class Full(PacedLogger):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 10:
                with open({str(small_disk / "other")!r}, "wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(4096))
                    except OSError:
                        pass
    members.Logger = Full
    """
    workdir = small_disk / "run"
    code, said = finish(start(program, workdir, pause=0.2, fault=fill))
    assert code == 1, said
    last = said.splitlines()[-1]
    assert last.startswith("error: ") and ("No space left on device" in last or "was not saved" in last), said
    assert checkpoints(workdir) == [4, 8]
    (small_disk / "other").unlink()
    assert "continues after step 8\n" in run(program, workdir)
    assert_the_same_run(workdir, straight)

"""Checkpoints damaged on disk: the run says so, goes on from the one before, and comes to the same end."""

import re
import shutil
import time
from pathlib import Path

import pytest

from tests.faults.tiny_run import assert_the_same_run, checkpoints, finish, read_until, run, start

pytestmark = pytest.mark.xdist_group("damage")  # the fixtures are runs: made once, in one process


def largest(checkpoint: Path) -> Path:
    """The file that holds the arrays."""
    return max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, place: int | None = None) -> None:
    """Turns one bit over, in the middle unless said otherwise."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 16
    path.write_bytes(content)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


# What is done to a checkpoint, and what is said of it.
DAMAGES = {
    "truncated array file": (lambda at: truncate(largest(at)), r"bytes, and had .* when it was saved"),
    "flipped bit in an array": (lambda at: flip(largest(at)), r"has other contents than were saved \(SHA-256\)"),
    "missing array file": (lambda at: largest(at).unlink(), "is missing"),
    "empty folder": (empty, "the folder is empty"),
    "truncated names of the arrays": (lambda at: truncate(at / "default/_METADATA"), "default/_METADATA has"),
    "truncated description": (lambda at: truncate(at / "_CHECKPOINT_METADATA"), "_CHECKPOINT_METADATA cannot be read"),
    "truncated digests": (lambda at: truncate(at / "checksums.json"), "checksums.json cannot be read"),
}
SHORT = "flipped bit in an array"  # the one that runs with all other tests


def killed_after(program: Path, workdir: Path, step: int, *flags: str) -> None:
    """A run killed when it has the checkpoints of a step and of the one before, and has dropped those before."""
    process = start(program, workdir, *flags, pause=0.1)
    read_until(process, step)
    folders = [workdir] if not flags else list(workdir.glob("seed-*"))
    while not all(checkpoints(folder) == [step - 4, step] for folder in folders):
        time.sleep(0.01)
    process.kill()
    finish(process)


@pytest.fixture(scope="module")
def interrupted(program, tmp_path_factory):
    """The workdir of a run killed after its third checkpoint; it keeps two."""
    workdir = tmp_path_factory.mktemp("interrupted") / "run"
    killed_after(program, workdir, 12)
    return workdir


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == SHORT else [pytest.mark.faults]) for name in DAMAGES]
)
def test_latest_is_damaged(program, straight, interrupted, tmp_path, name):
    """Said with the folder and what is wrong; the damaged folder stays as it is, under another name."""
    shutil.copytree(interrupted, workdir := tmp_path / "run")
    inflict, why = DAMAGES[name]
    inflict(latest := workdir / "checkpoints/12")
    left = contents(latest)
    said = run(program, workdir)
    (warning,) = [line for line in said.splitlines() if "is damaged" in line]
    assert re.search(why, warning), warning
    assert warning.startswith(f"warning: checkpoint {latest} is damaged: ") and "put aside as 12.damaged" in warning
    assert "continues after step 8\n" in said
    assert contents(workdir / "checkpoints/12.damaged") == left
    assert_the_same_run(workdir, straight)


@pytest.mark.faults
def test_all_are_damaged(program, interrupted, tmp_path):
    """A clear error that names each of them; nothing in the folder changes."""
    shutil.copytree(interrupted, workdir := tmp_path / "run")
    for step in (8, 12):
        truncate(largest(workdir / f"checkpoints/{step}"))
    before = contents(workdir / "checkpoints")
    code, said = finish(start(program, workdir))
    assert code == 1 and "error: no whole checkpoint to go on from; nothing was changed" in said, said
    assert all(f"checkpoint {workdir}/checkpoints/{step} is damaged: " in said for step in (8, 12))
    assert contents(workdir / "checkpoints") == before


@pytest.mark.faults
def test_damaged_twice(program, straight, interrupted, tmp_path):
    """The step is saved again, damaged again: both folders are kept."""
    shutil.copytree(interrupted, workdir := tmp_path / "run")
    flip(largest(workdir / "checkpoints/12"))
    killed_after(program, workdir, 12)
    flip(largest(workdir / "checkpoints/12"))
    assert "put aside as 12.damaged-2" in run(program, workdir)
    assert (workdir / "checkpoints/12.damaged").exists()
    assert_the_same_run(workdir, straight)


@pytest.mark.faults
def test_one_of_two_seeds_is_damaged(program, tmp_path):
    """Both go on from the step that both have whole."""
    run(program, tmp_path / "straight", "--seeds", "2")
    killed_after(program, workdir := tmp_path / "run", 12, "--seeds", "2")
    flip(largest(workdir / "seed-12346/checkpoints/12"))
    said = run(program, workdir, "--seeds", "2")
    assert "seed-12346/checkpoints/12 is damaged" in said and "continues after step 8\n" in said
    assert (workdir / "seed-12346/checkpoints/12.damaged").exists()
    for seed in ("seed-12345", "seed-12346"):
        assert_the_same_run(workdir / seed, tmp_path / "straight" / seed)

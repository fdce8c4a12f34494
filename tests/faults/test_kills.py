"""kill -9 at random moments, and SIGTERM at many: nothing is lost but the steps since the last checkpoint."""

import json
import random
import signal
import time
from collections import Counter

import pytest

from tests.faults.tiny_run import assert_the_same_run, checkpoints, finish, read_until, run, start, write_program

STEPS = 72


@pytest.fixture(scope="module")
def program(tiny_corpus, tmp_path_factory):
    """A checkpoint after every second step, an evaluation after every ninth."""
    return write_program(tmp_path_factory.mktemp("experiments"), tiny_corpus, STEPS, 2, 9)


def wait_for_save(process, workdir, flags):
    """Returns when a save is being written, by the folder that it has until it is complete."""
    folders = [workdir / "checkpoints"] if not flags else [workdir / f"seed-{12345 + i}/checkpoints" for i in (0, 1)]
    while not any(writing(folder) for folder in folders):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.0005)


def writing(folder):
    return any("tmp" in path.name for path in folder.iterdir()) if folder.exists() else False


@pytest.mark.faults
@pytest.mark.parametrize(("kills", "flags"), [(20, ()), (6, ("--seeds", "2"))], ids=["one run", "two seeds"])
def test_killed_at_random_moments(program, tmp_path, kills, flags, record_property):
    """A fifth of them while the process starts, two fifths at some step or evaluation, two fifths in a save; after each
    the same command starts again, and in the end everything is as if nothing had happened."""
    run(program, tmp_path / "straight", *flags)
    workdir, rng, moments = tmp_path / "run", random.Random(6), Counter()
    members = ["."] if not flags else ["seed-12345", "seed-12346"]
    kinds = ["start", "step", "save", "step", "save"] * (kills // 5 + 1)
    for kind in kinds[:kills]:
        before = min(max(checkpoints(workdir / member), default=0) for member in members)
        process = start(program, workdir, *flags, pause=0.02)
        if kind == "start":
            time.sleep(rng.uniform(0, 5))
        elif kind == "step":
            read_until(process, before + rng.randint(1, 3))
            time.sleep(rng.uniform(0, 0.05))
        else:
            wait_for_save(process, workdir, flags)
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
        code, said = finish(process)
        assert code == -signal.SIGKILL, said
        moments[kind] += 1
        moments["left a half-written checkpoint"] += any(writing(workdir / one / "checkpoints") for one in members)
    assert moments["left a half-written checkpoint"] >= kills // 5
    record_property("moments", json.dumps(moments))
    print(f"\n{kills} kills, {len(members)} run(s): {dict(moments)}")
    run(program, workdir, *flags)
    for member in members:
        assert_the_same_run(workdir / member, tmp_path / "straight" / member)


@pytest.mark.faults
def test_asked_to_stop_at_many_moments(program, tmp_path):
    """SIGTERM: exit status 75 within seconds, with the step under way saved; what is left to do continues from it."""
    run(program, tmp_path / "straight")
    workdir, rng, seconds = tmp_path / "run", random.Random(7), []
    for _ in range(8):
        before = max(checkpoints(workdir), default=0)
        process = start(program, workdir, pause=0.05)
        read_until(process, before + rng.randint(1, 5))
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        code, said = finish(process)
        seconds.append(time.monotonic() - asked)
        assert code == 75 and "and saved; the same command continues" in said, said
        assert max(checkpoints(workdir)) > before
    print(f"\nseconds from SIGTERM to the end: {', '.join(f'{s:.2f}' for s in sorted(seconds))}")
    assert max(seconds) < 10
    run(program, workdir)
    assert_the_same_run(workdir, tmp_path / "straight")

"""One run at a time: the second is refused at once, and nothing is left over from one that ended in any way."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from bert_jax.training.workdir_lock import LOCK_FILE, WorkdirLock

HOLD = """
import sys, time
from pathlib import Path
from bert_jax.training.workdir_lock import WorkdirLock

with WorkdirLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


def test_held_by_another_process(tmp_path):
    """It is named; once it is killed the workdir is free, though its file is still there."""
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf'in use by another run: .*"pid": {holder.pid}, "host"'):
            WorkdirLock(tmp_path).__enter__()
        holder.send_signal(signal.SIGKILL)
    assert str(holder.pid) in (tmp_path / LOCK_FILE).read_text()
    with WorkdirLock(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / LOCK_FILE).read_text()


def test_free_after_the_block(tmp_path):
    """After an exception, too; and within one process it is held once."""
    with pytest.raises(KeyError), WorkdirLock(tmp_path):
        with pytest.raises(ValueError, match="in use by another run"):
            WorkdirLock(tmp_path).__enter__()
        raise KeyError
    with WorkdirLock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_file_system_without_locks(tmp_path, monkeypatch, number):
    """Said, and not in the way."""

    def unknown(*_):
        raise OSError(number, "not here")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.warns(UserWarning, match="cannot be locked .*start no second run here"), WorkdirLock(tmp_path):
        pass


def test_other_errors_are_not_swallowed(tmp_path, monkeypatch):
    """Such as those of a broken disk."""

    def broken(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="broken"):
        WorkdirLock(tmp_path).__enter__()

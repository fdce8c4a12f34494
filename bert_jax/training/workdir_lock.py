"""One run at a time in a workdir: two would drop each other's half-written checkpoints and lines of the log."""

import datetime
import errno
import fcntl
import json
import os
import socket
import warnings
from pathlib import Path

LOCK_FILE = "run.lock"
# File systems that know no locks (Lustre without its mount option `flock`, some of NFS) say one of these.
_UNKNOWN = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


class WorkdirLock:
    """`with WorkdirLock(workdir): ...`: the workdir is this process's until the block ends, or the process does.

    It is a lock of the operating system on a file that stays; the kernel drops it whichever way the process ends, so it
    is never left over from one that was killed. The file says who holds it.

    Raises ValueError at once where another holds it. Where the file system knows no locks, this is warned of.
    """

    def __init__(self, workdir: Path):
        self._workdir = workdir

    def __enter__(self) -> "WorkdirLock":
        path = self._workdir / LOCK_FILE
        self._file = path.open("a+", encoding="utf-8")  # not "w": the file may be another's
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "a run that has just started"
            self._file.close()
            raise ValueError(
                f"{self._workdir} is in use by another run: {holder}. Wait for its end, or take another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _UNKNOWN:
                self._file.close()
                raise
            warnings.warn(f"{path} cannot be locked ({error}): start no second run here", stacklevel=2)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._file.truncate(0)
        self._file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
        self._file.flush()
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

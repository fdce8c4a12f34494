"""A run that hangs is ended, and says where it hung."""

import faulthandler
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Exit status of a run in which nothing went on for too long: EX_SOFTWARE of sysexits.h.
STALLED = 70


class Watchdog:
    """`with Watchdog(seconds) as watchdog: watchdog.doing("step 1") ...`: ends the process when nothing new is done
    for that long. On its standard error it then says what it was doing, and the stack of every thread.

    It is a thread that wakes every second and counts: time in which the process is suspended does not count. What it
    cannot notice is C code that never returns to Python nor lets any other thread do so.

    Args:
        seconds: the longest that any one thing may take, compilation included; 0 watches nothing.
    """

    def __init__(self, seconds: float):
        self._seconds, self._tick = seconds, min(1.0, seconds / 4)
        self._what, self._ticks = "the start", 0
        self._ended = threading.Event()

    def doing(self, what: str) -> None:
        """Says what is begun now, as the subject of "has taken too long"; the clock starts anew."""
        self._what, self._ticks = what, 0

    def each(self, what: str, function: Callable) -> Callable:
        """`function`, whose every call is a sign that `what` goes on."""

        def watched(*args: Any) -> Any:
            self.doing(what)
            return function(*args)

        return watched

    def steps(self, batches: Iterator[Any], start: int) -> Iterator[tuple[int, Any]]:
        """(step, batch) of the steps after `start`; both the waiting for a batch and the step itself are watched."""
        for step in itertools.count(start + 1):
            self.doing(f"waiting for the loader to read the batch of step {step}")
            try:
                batch = next(batches)
            except StopIteration:
                self.doing("the end, with the last checkpoint,")
                return
            self.doing(f"training step {step}")
            yield step, batch

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        if self._seconds:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._tick):
            self._ticks += 1
            if self._ticks * self._tick >= self._seconds:
                self._end()

    def _end(self) -> None:
        print(
            f"error: stalled: {self._what} has taken more than {self._seconds:g} seconds (--stall-seconds). The stacks "
            "of all threads follow; the same command continues from the last checkpoint.",
            file=sys.__stderr__, flush=True,
        )  # fmt: skip
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        os._exit(STALLED)  # not sys.exit, which would wait for the threads that hang

"""A process that does nothing new for too long ends with a status of its own and says where it was."""

import subprocess
import sys
import threading
import time

import pytest

from bert_jax.training.watchdog import STALLED, Watchdog

HANG = """
import threading, time
from bert_jax.training.watchdog import Watchdog

def never_returns():
    threading.Event().wait()

with Watchdog(0.5) as watchdog:
    for step in range(4):
        watchdog.doing(f"step {step}")
        time.sleep(0.3)  # together longer than the limit, but none of them
    threading.Thread(target=never_returns).start()
    watchdog.doing("the thing")
    never_returns()
"""


def test_a_process_that_hangs():
    """The message names what was done last, then come the stacks of all threads; other threads do not keep it alive."""
    ended = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == STALLED
    assert ended.stderr.startswith("error: stalled: the thing has taken more than 0.5 seconds (--stall-seconds)")
    assert ended.stderr.count("in never_returns") == 2


def test_ends_with_its_block():
    """Also after an exception; nothing happens later on."""
    before = threading.active_count()
    with pytest.raises(KeyError), Watchdog(0.2):
        assert threading.active_count() == before + 1
        raise KeyError
    assert threading.active_count() == before
    time.sleep(0.4)


def test_switched_off():
    """0 seconds: no thread."""
    before = threading.active_count()
    with Watchdog(0.0) as watchdog:
        watchdog.doing("something")
        assert threading.active_count() == before


def test_what_it_says():
    """Each batch is waited for, then trained on; calls of a function are signs of life, and it returns what it did."""
    watchdog, seen = Watchdog(100.0), []

    def batches():
        for batch in "ab":
            seen.append(watchdog._what)
            yield batch

    for step, batch in watchdog.steps(batches(), 4):
        seen.append((step, batch, watchdog._what))
    reading, training = "waiting for the loader to read the batch of step", "training step"
    assert seen == [f"{reading} 5", (5, "a", f"{training} 5"), f"{reading} 6", (6, "b", f"{training} 6")]
    assert watchdog.each("a sum", lambda *numbers: sum(numbers))(1, 2) == 3
    assert watchdog._what == "a sum"

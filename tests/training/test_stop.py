"""SIGTERM is a request while the loop runs, and what it was before afterwards."""

import os
import signal
import threading

import pytest

from bert_jax.training.stop import StopSignal


def test_sigterm_is_noted_and_the_process_lives():
    """Requested once sent; the handler before is back at the end, after an exception too."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("before"))
    try:
        with StopSignal() as stop:
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested and heard == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["before"]
        with pytest.raises(KeyError), StopSignal():
            raise KeyError
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["before", "before"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_caught():
    """Python allows signal handlers in the main thread only: no error, and the handler stays."""
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignal() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]

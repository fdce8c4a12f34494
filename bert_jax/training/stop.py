"""SIGTERM as a request: the step under way ends, the state is saved, the process exits."""

import signal
import threading

import jax


class StopSignal:
    """`with StopSignal() as stop: ... if stop.after(step): ...`; the handler before it comes back at the end.

    Pre-emption on clusters and `kill` send SIGTERM. In a thread other than the main one, where Python allows no signal
    handlers, nothing is caught. Of several processes any can be sent it; all stop after the same step, which they agree
    on (`jax.distributed` listens for the signal then).
    """

    def __init__(self):
        self.requested = False
        self._before = None

    def after(self, step: int) -> bool:
        """Whether to stop after `step`; to be asked after every step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils  # which uses devices when it is imported

            self.requested = self.requested or multihost_utils.reached_preemption_sync_point(step)
        return self.requested

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _request(self, *_) -> None:
        self.requested = True

"""SIGTERM as a request: the step under way ends, the state is saved, the process exits."""

import signal
import threading


class StopSignal:
    """`with StopSignal() as stop: ... if stop.requested: ...`; the handler before it comes back at the end.

    Pre-emption on clusters and `kill` send SIGTERM. In a thread other than the main one, where Python allows no signal
    handlers, nothing is caught.
    """

    def __init__(self):
        self.requested = False
        self._before = None

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _request(self, *_) -> None:
        self.requested = True

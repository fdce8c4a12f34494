"""Contestants for tests of tools/benchmark.py: they note who ran, and say what they were told to."""

import os
import signal
from pathlib import Path
from typing import Any


class Fake:
    """Appends its name and number of steps to a file."""

    def __init__(self, name: str, notes: str, work: float = 1.0, loss: float = 0.5):
        self.facts = {"version": "1"}
        self._name, self._notes, self._found = name, Path(notes), {"loss": loss, "work": work}

    def warm_up(self) -> None:
        self._note("warms up")

    def run(self, steps: int) -> dict[str, Any]:
        self._note(str(steps))
        print("what a library prints")  # must not be taken for an answer
        return self._found | {"work": self._found["work"] * steps}

    def _note(self, what: str) -> None:
        with open(self._notes, "a") as file:
            file.write(f"{self._name} {what}\n")


class Failing:
    """Says, as it starts, that it does other work."""

    def __init__(self, **arguments: Any):
        raise ValueError("that is not the same work")


class Killed(Fake):
    """Is ended by the system in its second turn."""

    def run(self, steps: int) -> dict[str, Any]:
        if self._notes.read_text().count(f"{self._name} ") == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(steps)


def prepare(notes: str) -> dict[str, Any]:
    """Both sides get the file."""
    return {"ours": {"notes": notes, "name": "ours"}, "peers": {"notes": notes}, "padding": 0.25}


def dies() -> None:
    """Ends the process without a word."""
    raise SystemExit(3)

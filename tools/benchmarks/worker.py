"""A process of one contestant: `python -m tools.benchmarks.worker`, driven by `contest.Worker` through lines of JSON.

The first line says what to make and on which cores; every further one asks for steps, and is answered with how long
they took. Between two questions the process waits for input and does nothing. What libraries print goes to stderr.
"""

import importlib
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def serve() -> None:
    """Answers the lines of stdin until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        order = json.loads(sys.stdin.readline())
        if order["cores"] and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, order["cores"])  # before any library counts them
        module, _, name = order["target"].partition(":")
        made = getattr(importlib.import_module(module), name)(**order["arguments"])
        if isinstance(made, dict):  # a preparation: there is nothing to run
            answers.write(json.dumps(made) + "\n")
            return
        prepared = time.time()
        first = measure(made, 1)
        since = {"prepared": prepared - order["started"], "first_step": first["seconds"]}
        answers.write(json.dumps({"facts": made.facts, "first": first} | since) + "\n")
        for line in sys.stdin:
            answers.write(json.dumps(answer(made, json.loads(line))) + "\n")
    except Exception as error:
        traceback.print_exc()
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")


def answer(contestant: Any, question: dict[str, Any]) -> dict[str, Any]:
    """Runs the steps that are asked for, or warms up."""
    if "steps" in question:
        return measure(contestant, question["steps"])
    began = time.perf_counter()
    if hasattr(contestant, "warm_up"):
        contestant.warm_up()
    return {"warm_up": time.perf_counter() - began, "facts": contestant.facts}


def measure(contestant: Any, steps: int) -> dict[str, Any]:
    """What `contestant.run(steps)` says, with the seconds it took, the processor time so far before and after, and the
    most main memory so far, where it does not say how much it took of an accelerator's."""
    before, began = time.process_time(), time.perf_counter()
    found = contestant.run(steps)
    seconds = time.perf_counter() - began
    spent = {"processor_before": before, "processor_after": time.process_time(), "peak_memory": peak_memory()}
    return {"seconds": seconds, "steps": steps} | spent | found


def peak_memory() -> int:
    """The most bytes of main memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process that started this one held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024


if __name__ == "__main__":
    serve()

"""Contestants in processes of their own, taking turns; what comes of it, and how it compares with another time."""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS = "bert_jax"
# Between two turns, so that the threads of the one before have gone to sleep.
PAUSE = 0.3
WHOLE = ""  # the part of a turn that is all of it


@dataclass(frozen=True)
class Contestant:
    """Who takes part in a row.

    Attributes:
        side: `bert_jax`, or the library that it is compared with.
        target: "module:name" of what to make in a worker, with `run(steps)` and `facts`.
        arguments: of that, besides what the row's preparation found.
        needs: packages that must be installed.
        variant: what tells it from others of its side, of which the fastest counts.
        environment: variables of its process.
    """

    side: str
    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    needs: tuple[str, ...] = ()
    variant: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.side, self.variant) if part)

    @property
    def missing(self) -> list[str]:
        """The packages that it needs and that are not there."""
        return [package for package in self.needs if find_spec(package) is None]


@dataclass(frozen=True)
class Row:
    """A line of the table: the same work done by several.

    Attributes:
        name: on the command line.
        work: what is counted, a plural: tokens (without padding), sentences, MB.
        contestants: ours, then its peers.
        prepare: "module:name" of a function, run in a process of its own, whose findings all contestants get.
        arguments: of the preparation.
        fresh: a turn is a process from its start to its end, and one step of it.
        rehearsals: turns of a fresh row that do not count.
        threads: of each contestant at most; 0 for as many as there are.
        steps: of a turn; 0 for as many as fill it.
        default: whether it is measured where no rows are named.
        note: for the reader of the table.
    """

    name: str
    work: str
    contestants: tuple[Contestant, ...]
    prepare: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    fresh: bool = False
    rehearsals: int = 0
    threads: int = 0
    steps: int = 0
    default: bool = True
    note: str = ""


class Failed(Exception):
    """A worker ended with an error; the text says which."""


class Worker:
    """The process of a contestant, from its start; `close` ends it.

    Args:
        target, arguments: see `Contestant`.
        threads: of each library in it; the process is kept to as many cores.
        log: file that its stderr is added to.
        environment: variables besides the driver's own.
    """

    def __init__(self, target: str, arguments: Mapping[str, Any], threads: int, log: Path, environment: Any = None):
        self._cache = tempfile.TemporaryDirectory(prefix="bert-jax-benchmark-")
        variables = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        variables |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        # Empty at first, so that compiling is part of the first step; small functions are kept in it, too.
        kept = {"MIN_COMPILE_TIME_SECS": "0", "MIN_ENTRY_SIZE_BYTES": "-1"}
        variables |= {f"JAX_PERSISTENT_CACHE_{name}": value for name, value in kept.items()}
        variables |= {"JAX_COMPILATION_CACHE_DIR": self._cache.name}
        variables |= environment or {}
        self.began, self._target = time.time(), target
        with open(log, "ab") as errors:
            command = [sys.executable, "-m", "tools.benchmarks.worker"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self._process = subprocess.Popen(command, env=variables, text=True, **pipes)
        order = {"target": target, "arguments": arguments, "cores": choose_cores(threads), "started": self.began}
        self.ready = self._ask(order)

    def run(self, steps: int) -> dict[str, Any]:
        """Has it do some steps; what it answers."""
        return self._ask({"steps": steps})

    def warm_up(self) -> dict[str, Any]:
        """Has it do what would otherwise fall into the first turn."""
        self.ready |= self._ask({"warm_up": True})
        return self.ready

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._cache.cleanup()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": ended(self._process.wait())}
        if "error" in answer:
            self.close()
            raise Failed(f"{self._target}: {answer['error']}")
        return answer


def ended(status: int) -> str:
    """What the status of a process that is gone says."""
    why = ", as the system does where memory runs out" if status == -signal.SIGKILL else ""
    return f"the process was ended by {signal.Signals(-status).name}{why}" if status < 0 else f"ended with {status}"


Start = Callable[[Contestant], Worker | None]
Say = Callable[[str], None]


def choose_cores(threads: int) -> list[int]:
    """The cores for this many threads: of different physical cores as far as there are, evenly spread; all of them,
    as an empty list, where the system has no such thing."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    seen, physical = set(), []
    for core in cores:
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        siblings = path.read_text() if path.exists() else str(core)
        physical += [] if siblings in seen else [core]
        seen.add(siblings)
    chosen = physical if threads <= len(physical) else cores
    threads = min(threads, len(chosen))
    return [chosen[i * len(chosen) // threads] for i in range(threads)]


def prepare(row: Row, threads: int, log: Path) -> dict[str, Any]:
    """What a row's preparation finds. Raises Failed."""
    if not row.prepare:
        return {}
    worker = Worker(row.prepare, dict(row.arguments), threads, log)
    worker.close()
    return worker.ready


def hold(row: Row, pairs: int, turn_seconds: float, threads: int, log: Path, say: Say) -> dict:
    """The contest of a row: its record, which goes into the JSON file.

    A peer that is not installed or fails is left out, and the record says so under `missing`.

    Args:
        row: of which.
        pairs: turns of each contestant.
        turn_seconds: that a turn takes, more or less.
        threads: of each contestant.
        log: file for what the processes say.
        say: is told what happens.

    Raises Failed where the preparation or ours fails.
    """
    threads = min(threads, row.threads or threads)
    missing = {peer.name: f"not installed: {', '.join(peer.missing)}" for peer in row.contestants if peer.missing}
    say("preparing")
    found = prepare(row, threads, log)

    def attempt(contestant: Contestant, action: Callable[[], Any]) -> Any:
        """What an action of a contestant returns; None where a peer fails, which the record then says."""
        try:
            return action()
        except Failed as error:
            if contestant.side == OURS:
                raise
            missing[contestant.name] = f"failed: {error}"
            return None

    def start(contestant: Contestant) -> Worker | None:
        given = found.get("ours" if contestant.side == OURS else "peers", {})
        order = contestant.target, {**given, **contestant.arguments}, threads, log, contestant.environment
        return attempt(contestant, lambda: Worker(*order))

    playing = [contestant for contestant in row.contestants if not contestant.missing]
    if row.fresh:
        entries = _fresh(row, playing, start, pairs, say)
    else:
        entries = _alternate(row, playing, start, attempt, pairs, turn_seconds, say)
    record = {"name": row.name, "work": row.work, "threads": threads, "fresh": row.fresh, "note": row.note}
    facts = {name: value for name, value in found.items() if name not in ("ours", "peers")}
    return record | facts | {"contestants": entries, "missing": missing, "ratios": ratios(entries)}


def _alternate(
    row: Row,
    playing: Sequence[Contestant],
    start: Start,
    attempt: Callable,
    pairs: int,
    turn_seconds: float,
    say: Say,
) -> list[dict[str, Any]]:
    """Turns of processes that live through all of them."""
    workers: dict[Contestant, Worker] = {}

    def ask(contestant: Contestant, question: Callable[[Worker], Any]) -> Any:
        worker = workers[contestant]
        if (answer := attempt(contestant, lambda: question(worker))) is None:
            del workers[contestant]
        return answer

    try:
        for contestant in playing:
            say(f"starting {contestant.name}")
            if worker := start(contestant):
                workers[contestant] = worker
        steps = row.steps
        if not steps:
            for contestant in list(workers):
                say(f"warming up {contestant.name}")
                ask(contestant, Worker.warm_up)
            warm = [ask(contestant, lambda worker: worker.run(2)) for contestant in list(workers)]
            steps = max(1, round(turn_seconds / statistics.mean(two["seconds"] / 2 for two in warm if two)))
        turns = {contestant: [] for contestant in workers}
        for pair in range(pairs):
            for contestant in list(workers):
                say(f"pair {pair + 1} of {pairs}, {steps} steps: {contestant.name}")
                time.sleep(PAUSE)
                turns[contestant].append(ask(contestant, lambda worker: worker.run(steps)))
        return [entry(contestant, turns[contestant], worker.ready) for contestant, worker in workers.items()]
    finally:
        for worker in workers.values():
            worker.close()


def _fresh(row: Row, playing: Sequence[Contestant], start: Start, pairs: int, say: Say) -> list[dict[str, Any]]:
    """Turns of processes that live through one, from their start to its end."""
    turns = {contestant: [] for contestant in playing}
    ready = {}
    for pair in range(-row.rehearsals, pairs):
        for contestant in list(turns):
            say(f"pair {pair + 1} of {pairs}: {contestant.name}")
            time.sleep(PAUSE)
            worker = start(contestant)
            if worker is None:
                del turns[contestant]
                continue
            until = worker.ready["first"].get("until", time.time())
            worker.close()
            if pair >= 0:
                ready[contestant] = worker.ready
                turns[contestant].append(worker.ready["first"] | {"seconds": until - worker.began})
    return [entry(contestant, own, ready[contestant]) for contestant, own in turns.items()]


def entry(contestant: Contestant, turns: Sequence[dict[str, Any]], ready: dict[str, Any]) -> dict[str, Any]:
    """A contestant's part of a row's record."""
    waited = [after["processor_before"] - before["processor_after"] for before, after in itertools.pairwise(turns)]
    return {
        "name": contestant.name,
        "side": contestant.side,
        "facts": ready["facts"],
        "first_step": ready["first_step"],
        "start": ready["prepared"] + ready["first_step"],
        "warm_up": ready.get("warm_up", 0.0),
        "peak_memory": max(turn["peak_memory"] for turn in turns),
        # What it takes from the others while it waits: processor seconds for each second of its own turns.
        "idle_load": max(0.0, sum(waited)) / sum(turn["seconds"] for turn in turns),
        "turns": list(turns),
    }


# ---- ratios ----


def rates(contestant: dict[str, Any], part: str = WHOLE) -> list[float]:
    """Work per second of each turn, or of a part of it."""
    return [turn["work"] / (turn["parts"][part] if part else turn["seconds"]) for turn in contestant["turns"]]


def ratios(contestants: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times as fast ours is as each peer, pair by pair; of several of one side the fastest counts."""
    found = []
    for part in (WHOLE, *contestants[0]["turns"][0].get("parts", {})):
        best: dict[str, dict[str, Any]] = {}
        for one in contestants:
            side = best.setdefault(one["side"], one)
            if statistics.median(rates(one, part)) > statistics.median(rates(side, part)):
                best[one["side"]] = one
        ours = best.pop(OURS)
        for peer in best.values():
            of_pairs = [mine / its for mine, its in zip(rates(ours, part), rates(peer, part), strict=True)]
            names = {"part": part, "ours": ours["name"], "peer": peer["name"], "side": peer["side"]}
            found.append(names | {"pairs": of_pairs, "median": statistics.median(of_pairs)})
    return found


def compare(then: dict[str, Any], now: dict[str, Any], margin: float) -> tuple[list[str], list[str]]:
    """What became worse and what can be compared, as lines of text; both are JSON files of this tool.

    A ratio is worse that has lost more than the share `margin`. Raises ValueError where nothing is in both.
    """

    def medians(record):
        return {
            (row["name"], ratio["part"], ratio["side"]): ratio["median"]
            for row in record["rows"]
            for ratio in row["ratios"]
        }

    before, after = medians(then), medians(now)
    measured = {row["name"] for row in now["rows"]}
    shared = [key for key in after if key in before]
    if not shared:
        raise ValueError("the two have no row with the same peer in common: nothing can be compared")
    gone = [key for key in before if key not in after and key[0] in measured]
    lines = [f"{row}: {peer} was measured then, and is not now" for row, _, peer in gone]
    worse = []
    for key in shared:
        row, part, peer = key
        change = after[key] / before[key] - 1
        title = f"{row}, {part}" if part else row
        lines.append(f"{title}: {after[key]:.2f}x {peer} now, {before[key]:.2f}x then ({change:+.0%})")
        if change < -margin:
            worse.append(lines[-1])
    return worse, lines

"""Whether a long run keeps what it takes: memory, open files and threads of a command, sampled while it runs.

    python tools/soak.py --record RECORD --workdir runs/soak --seconds 3600 -- \
        python experiments/pretrain_mini.py --workdir runs/soak --corpus runs/corpus --checkpoint-every 20 ...
    python tools/soak.py --record RECORD --workdir runs/soak

The first runs the command, stops it with SIGTERM after the time given, and does what the second does on its own, also
while the command is still running: `result.json`, `table.md` and `memory.png` in RECORD, from `samples.jsonl` there.
"""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro

from bert_jax.training.log import METRICS_FILE, read_metrics

SAMPLES_FILE = "samples.jsonl"
MEGABYTE = 1e6
# What is sampled, and how it is called in the table. Of the resident memory a part is pages of files that are mapped;
# `own` is what only this process has, and would be free if it ended.
SAMPLED = {
    "resident": "resident memory, MB",
    "own": "memory of its own, MB",
    "files": "open files",
    "threads": "threads",
}


@dataclass(frozen=True)
class Arguments:
    record: Path
    """folder of the record"""
    workdir: Path
    """of the run that the command makes"""
    seconds: float = 3600.0
    """after which the command is sent SIGTERM"""
    every: float = 5.0
    """seconds between samples"""
    settled: float = 300.0
    """seconds from which on nothing should grow any more: compilation, caches and the first checkpoints lie before"""


def watch(command: list[str], arguments: Arguments) -> int:
    """Runs the command, whose output goes to `log.txt` of the record, and samples it. Returns its exit status."""
    arguments.record.mkdir(parents=True)
    start = time.monotonic()
    with (arguments.record / "log.txt").open("w") as log, (arguments.record / SAMPLES_FILE).open("w") as samples:
        running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        process = psutil.Process(running.pid)
        asked = False
        while running.poll() is None:
            if not asked and time.monotonic() - start > arguments.seconds:
                running.send_signal(signal.SIGTERM)
                asked = True
            try:
                samples.write(json.dumps({"seconds": round(time.monotonic() - start, 1)} | sample(process)) + "\n")
                samples.flush()
            except psutil.Error:  # it ended in between
                break
            time.sleep(arguments.every)
        return running.wait()


def sample(process: psutil.Process) -> dict[str, float]:
    """What the process takes now, by the names of `SAMPLED`."""
    memory = process.memory_full_info()
    return {
        "resident": round(memory.rss / MEGABYTE, 1),
        "own": round(memory.uss / MEGABYTE, 1),
        "files": process.num_fds(),
        "threads": process.num_threads(),
    }


def summary(arguments: Arguments) -> dict[str, Any]:
    """Of each quantity the values once settled and what it grows by in an hour (least squares); what the run did."""
    lines = (arguments.record / SAMPLES_FILE).read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    settled = [one for one in samples if one["seconds"] >= arguments.settled] or samples
    hours = np.array([one["seconds"] for one in settled]) / 3600
    config = json.loads((arguments.workdir / "config.json").read_text())
    entries = read_metrics(arguments.workdir / METRICS_FILE)
    steps = entries[-1]["step"]
    record: dict[str, Any] = {
        "seconds": samples[-1]["seconds"],
        "samples": len(samples),
        "settled_after_seconds": arguments.settled,
        "steps": steps,
        "evaluations": sum(any(not name.startswith(("step", "time", "train/")) for name in one) for one in entries),
        "checkpoints": steps // config["checkpoint_every"],
    }
    for name in SAMPLED:
        values = np.array([one[name] for one in settled], float)
        slope = float(np.polyfit(hours, values, 1)[0]) if len(values) > 1 else 0.0
        record[name] = {
            "first": values[0],
            "last": values[-1],
            "least": values.min(),
            "most": values.max(),
            "growth_per_hour": round(slope, 2),
        }
    return record


def table(record: dict[str, Any]) -> str:
    """The summary as a Markdown table."""
    lines = [
        f"{record['seconds'] / 60:.0f} minutes, {record['steps']:,} steps, {record['checkpoints']} checkpoints, "
        f"{record['evaluations']} evaluations; figures from minute {record['settled_after_seconds'] / 60:.0f} on.\n",
        "| | first | last | least | most | growth in an hour |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in SAMPLED.items():
        cells = [f"{record[name][key]:,.0f}" for key in ("first", "last", "least", "most")]
        lines.append("| " + " | ".join([title, *cells, f"{record[name]['growth_per_hour']:+.1f}"]) + " |")
    return "\n".join(lines) + "\n"


def draw(arguments: Arguments) -> None:
    """`memory.png`: what was sampled over the minutes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = [json.loads(line) for line in (arguments.record / SAMPLES_FILE).read_text().splitlines()]
    minutes = [one["seconds"] / 60 for one in samples]
    figure = Figure(figsize=(8, 5), dpi=130, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for ax, names, label in ((above, ("resident", "own"), "MB"), (below, ("files", "threads"), "count")):
        for name in names:
            ax.plot(minutes, [one[name] for one in samples], label=SAMPLED[name].removesuffix(", MB"))
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize="small")
        ax.grid(alpha=0.25)
    below.set_xlabel("minutes")
    FigureCanvasAgg(figure).print_png(str(arguments.record / "memory.png"), metadata={"Software": None})


def main() -> None:
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, command = tyro.cli(Arguments, args=sys.argv[1:end], description=__doc__), sys.argv[end + 1 :]
    status = watch(command, arguments) if command else None
    record = summary(arguments) | {"exit_status": status}
    (arguments.record / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    (arguments.record / "table.md").write_text(table(record))
    draw(arguments)
    print(table(record), end="")


if __name__ == "__main__":
    main()

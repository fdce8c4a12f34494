"""Measures bert_jax beside its peers: python tools/benchmark.py [--rows NAME ...] [--output DIR] [--compare OLD.json]

Each row of the table is the same work done by us and by others, in processes of their own that take turns, so that what
else the machine does meets all of them; the ratio is of neighbouring turns. Peers that are not installed are left out:
pip install -e '.[benchmark]'. The text is the documentation of the installed libraries, or what --text names.

    python tools/benchmark.py --rows pretrain-base-128 pretrain-base-128-bf16
    python tools/benchmark.py --text wiki/*.xz --tokenizer bert-base-uncased --compare runs/benchmark/results.json

It writes results.json (every turn), results.md and ratios.png. With --compare the exit status is 1 where a ratio became
worse; absolute times are of one machine, ratios of neighbouring turns less so.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import tyro
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script it would find only what lies beside it

from tools.benchmarks.contest import WHOLE, Failed, compare, hold, rates
from tools.benchmarks.rows import Inputs, all_rows

RESULTS, TABLE, PICTURE, LOG = "results.json", "results.md", "ratios.png", "processes.log"
PACKAGES = (
    *("bert_jax", "jax", "jaxlib", "flax", "optax", "numpy", "tokenizers"),
    *("torch", "transformers", "keras", "keras-hub", "torchax", "sentence-transformers"),
)
COLUMNS = (
    *("row", "who", "a step", "a second", "ratio (lowest to highest)", "of peak", "first step s", "start s"),
    *("memory GB", "loss"),
)


@dataclass(frozen=True)
class Arguments:
    """Measures bert_jax beside its peers, in turns."""

    rows: tuple[str, ...] = ()
    """names of rows, or patterns of names such as 'pretrain-*'; all but those of large models if not given"""
    list: bool = False
    """only print the names of the rows"""
    output: Path = Path("runs/benchmark")
    """folder of the results, and of corpora that a later call takes again"""
    pairs: int = 5
    """turns of each contestant"""
    turn_seconds: float = 5.0
    """that a turn takes, more or less"""
    threads: int = 0
    """of each contestant, which is kept to as many cores; 0 takes all"""
    inputs: tyro.conf.OmitArgPrefixes[Inputs] = Inputs()
    compare: Path | None = None
    """results.json of another time"""
    margin: float = 0.1
    """share that a ratio may lose against it"""

    def __post_init__(self):
        if self.pairs < 1 or self.threads < 0:
            raise ValueError(f"--pairs {self.pairs} --threads {self.threads}: at least 1 pair, and threads from 0")


def main() -> int:
    """Runs the command line; status 1: a ratio became worse or a row failed, 2: the input was wrong."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console = console if console.is_terminal else Console(highlight=False, markup=False, width=180)
    try:
        return benchmark(tyro.cli(Arguments, description=__doc__), console)
    except (ValueError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2


def benchmark(arguments: Arguments, console: Console) -> int:
    """Measures, prints, writes. Raises ValueError for a row that there is not, and for a record that is none."""
    rows = all_rows(arguments.output / "work", arguments.inputs)
    if arguments.list:
        console.print("\n".join(row.name for row in rows))
        return 0
    chosen = choose(rows, arguments.rows)
    then = read(arguments.compare) if arguments.compare else None
    (arguments.output / "work").mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(arguments.threads or cores, cores)
    found: dict[str, Any] = {"machine": machine(), "command": sys.argv[1:], "rows": [], "failed": {}}
    for row in chosen:
        with console.status(row.name) as status:

            def say(what: str, row=row, status=status) -> None:
                status.update(f"{row.name}: {what}")
                if not console.is_terminal:
                    console.print(f"{row.name}: {what}")

            try:
                record = hold(row, arguments.pairs, arguments.turn_seconds, threads, arguments.output / LOG, say)
            except Failed as error:
                found["failed"][row.name] = str(error)
                console.print(f"{row.name} failed: {error}; see {arguments.output / LOG}")
                write(arguments.output, found)
                continue
        found["rows"].append(record)
        console.print(rich_table(table([record])))
        for name, why in record["missing"].items():
            console.print(f"  without {name}: {why}")
        write(arguments.output, found)  # after each row: a long benchmark that is stopped has what it measured
    console.print(f"written to {arguments.output / TABLE}, {RESULTS}, {PICTURE}")
    status = 1 if found["failed"] else 0
    if then is not None:
        worse, lines = compare(then, found, arguments.margin)
        console.print("\n".join(lines))
        console.print("\n".join(["worse:", *worse]) if worse else "nothing became worse")
        status = 1 if worse else status
    return status


def choose(rows: Sequence[Any], wanted: Sequence[str]) -> list[Any]:
    """The rows with these names or patterns, in the order of all. Raises ValueError for one that meets none."""
    if not wanted:
        return [row for row in rows if row.default]
    for pattern in wanted:
        if not any(fnmatchcase(row.name, pattern) for row in rows):
            raise ValueError(f"--rows {pattern}: there are {', '.join(row.name for row in rows)}")
    return [row for row in rows if any(fnmatchcase(row.name, pattern) for pattern in wanted)]


def read(path: Path) -> dict[str, Any]:
    """A results file. Raises ValueError where it is none, FileNotFoundError where there is none."""
    try:
        record = json.loads(path.read_text())
        [row["ratios"] for row in record["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no {RESULTS} of this tool: {error!r}") from None
    return record


def machine() -> dict[str, Any]:
    """What was measured on, and with which versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    git = ["git", "describe", "--always", "--dirty"]
    try:
        asked = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        commit = asked.stdout.strip()
    except OSError:
        commit = ""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
        "commit": commit,
    }


# ---- what a reader sees ----


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for each contestant of each row, and for each part of its turns; the columns are COLUMNS."""
    lines = []
    for row in rows:
        parts = (WHOLE, *row["contestants"][0]["turns"][0].get("parts", {}))
        for part in parts:
            for one in row["contestants"]:
                ratio = next((r for r in row["ratios"] if r["part"] == part and r["peer"] == one["name"]), None)
                lines.append(_line(row, one, part, ratio))
    return lines


def _line(row: dict[str, Any], one: dict[str, Any], part: str, ratio: dict[str, Any] | None) -> list[str]:
    seconds = [(turn["parts"][part] if part else turn["seconds"]) / turn["steps"] for turn in one["turns"]]
    rate = statistics.median(rates(one, part))
    share = rate * row["flops_per_unit"] / row["peak"] if "peak" in row and row["work"] == "tokens" else None
    loss = one["turns"][-1].get("loss")
    middle = statistics.median(seconds)
    step = f"{1000 * middle:,.0f} ms" if middle < 10 else f"{middle:,.1f} s"
    return [
        f"{row['name']} ({part})" if part else row["name"],
        one["name"],
        f"{step} ±{(max(seconds) - min(seconds)) / middle / 2:.0%}",
        f"{rate:,.0f} {row['work']}" if rate >= 100 else f"{rate:.2f} {row['work']}",
        f"{ratio['median']:.2f}x ({min(ratio['pairs']):.2f} to {max(ratio['pairs']):.2f})" if ratio else "",
        f"{share:.0%}" if share is not None else "",
        "" if row["fresh"] else f"{one['first_step']:.1f}",
        "" if row["fresh"] else f"{one['start']:.1f}",
        f"{one['peak_memory'] / 1e9:.1f}",
        f"{loss:.3f}" if loss is not None else "",
    ]


def rich_table(lines: Sequence[Sequence[str]]) -> Table:
    """The table on a console."""
    made = Table(*COLUMNS)
    for line in lines:
        made.add_row(*line)
    return made


def markdown(found: dict[str, Any]) -> str:
    """The table and what it was measured on."""
    about = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items() if version)
    rows = [COLUMNS, ["---"] * len(COLUMNS), *table(found["rows"])]
    notes = [f"- {row['name']} without {name}: {why}" for row in found["rows"] for name, why in row["missing"].items()]
    notes += [f"- {row['name']}: {row['note']}" for row in found["rows"] if row["note"]]
    notes += [f"- {name} failed: {why}" for name, why in found["failed"].items()]
    threads = ", ".join(sorted({str(row["threads"]) for row in found["rows"]}))
    return "\n".join(
        [
            f"{about['time']}, {about['processor']}, {threads} threads each, commit {about['commit']}. Ratio: how many "
            "times as fast bert_jax is as the peer of the line, median of neighbouring turns (lowest to highest).",
            "",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            *notes,
            *([""] if notes else []),
            f"{about['system']}, Python {about['python']}, {versions}.",
            "",
        ]
    )


def picture(found: dict[str, Any], path: Path) -> None:
    """Bars of the ratios, with the range over the pairs."""
    bars = [(row["name"], ratio) for row in found["rows"] for ratio in row["ratios"]]
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.4 * len(bars)), layout="constrained")
    names = [f"{row}{', ' if of['part'] else ''}{of['part']}\n{of['peer']}" for row, of in bars]
    middle = [of["median"] for _, of in bars]
    low = [of["median"] - min(of["pairs"]) for _, of in bars]
    high = [max(of["pairs"]) - of["median"] for _, of in bars]
    axes.barh(range(len(bars)), middle, xerr=(low, high), color="tab:blue", alpha=0.8)
    axes.set_yticks(range(len(bars)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("times as fast as the peer (bar: median of the pairs, line: lowest to highest)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(folder: Path, found: dict[str, Any]) -> None:
    """The three files."""
    (folder / RESULTS).write_text(json.dumps(found, indent=1) + "\n")
    (folder / TABLE).write_text(markdown(found))
    picture(found, folder / PICTURE)


if __name__ == "__main__":
    sys.exit(main())

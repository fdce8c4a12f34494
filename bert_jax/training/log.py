"""What a run says: metrics to `metrics.jsonl` and TensorBoard, progress to the terminal or, plainly, to a file."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
import rich.progress
import rich.table
import rich.text

METRICS_FILE = "metrics.jsonl"
_FORMATS = {"loss": "{:.4f}", "accuracy": "{:.4f}", "learning_rate": "{:.1e}", "examples_per_second": "{:,.0f}"}
_SHORT = {"learning_rate": "lr", "examples_per_second": "examples/s"}


class Logger:
    """Writes a run's metrics, and shows how far it is and how long it still takes.

    `metrics.jsonl` in the workdir gets one JSON object a line: `step`, `time` (seconds since 1970) and the metrics by
    name; a number that is not finite is null there, as JSON knows no other. TensorBoard's events go to its folder
    `tensorboard`. On a terminal one line is kept up to date and evaluations are printed above it; where there is no
    terminal, everything is printed line by line. Only process 0 of several writes or prints anything.

    Args:
        workdir: an existing folder.
        total_steps: of the whole run.
        start_step: of the checkpoint that this process continues from, 0 of none. Metrics of later steps that an
            interrupted process left behind are dropped (of none all, also of an evaluation before the first step), and
            so is a last line that it did not finish.
        console: whether to print; the files are written all the same.

    Raises ValueError, with the line's number, if another line of `metrics.jsonl` is not one of metrics.
    """

    def __init__(self, workdir: str | Path, total_steps: int, start_step: int = 0, console: bool = True):
        self._total = total_steps
        self._started, self._first = (start_step, time.monotonic()), None
        self._on = jax.process_index() == 0
        if not self._on:
            return
        path = Path(workdir) / METRICS_FILE
        kept = start_step or -1
        _drop_after(path, kept)
        self._file = path.open("a", encoding="utf-8")
        self._events, self._purge_from = Path(workdir) / "tensorboard", kept + 1
        self._console = rich.console.Console(highlight=False, markup=False, emoji=False, quiet=not console)
        self._progress = None
        if console and self._console.is_terminal:
            self._progress = rich.progress.Progress(
                rich.progress.BarColumn(bar_width=10, table_column=rich.table.Column(min_width=10)),
                rich.progress.TextColumn("{task.description}", markup=False),
                console=self._console,
                refresh_per_second=2,
            )
            waiting = f"{start_step:,}/{total_steps:,}  compiling"
            self._task = self._progress.add_task(waiting, total=total_steps, completed=start_step)
            self._progress.start()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records `metrics` of `step`: numbers under names such as `train/loss` or `valid/mlm/accuracy`.

        Those under `train/` move the progress; any other first component is an evaluation.
        """
        values = {name: float(value) for name, value in metrics.items()}
        if not self._on or not values:
            return
        entry = {"step": step, "time": round(time.time(), 3)}
        entry |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        parts = dict.fromkeys(name.split("/")[0] for name in values)
        for part in parts:
            of_part = {n.removeprefix(f"{part}/"): v for n, v in values.items() if n.split("/")[0] == part}
            self._show(step, part, of_part)
        for name, value in values.items():
            self._tensorboard.add_scalar(name, np.float32(value), step)
        self._tensorboard.flush()
        if "train" in parts:
            self._first = self._first or (step, time.monotonic())

    @cached_property
    def _tensorboard(self) -> Any:
        # When there is something to write: importing this imports torch where that is installed, which takes seconds
        # that the first step would have to wait for.
        from tensorboardX import SummaryWriter

        # TensorBoard hides what an earlier process wrote of steps from purge_step on. The suffix keeps the files of two
        # starts within a second apart.
        return SummaryWriter(str(self._events), purge_step=self._purge_from, filename_suffix=f".{time.time_ns()}")

    def message(self, text: str) -> None:
        """Prints a line, above the progress if there is one."""
        if self._on:
            self._console.print(rich.text.Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints a line that stands out."""
        if self._on:
            self._console.print(rich.text.Text(f"warning: {text}", style="bold yellow"), soft_wrap=True)

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        if self._on:
            if self._progress is not None:
                self._progress.stop()
            if "_tensorboard" in self.__dict__:
                self._tensorboard.close()
            self._file.close()

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _show(self, step: int, part: str, values: Mapping[str, float]) -> None:
        where = f"{step:,}/{self._total:,}"
        if part != "train":
            self.message(f"{where}  {part}: {_summary(values)}")
            return
        line = f"{where}  {self._times(step)}  {_summary(values)}"
        if self._progress is None:
            self.message(line)
        else:
            self._progress.update(self._task, completed=step, description=line)

    def _times(self, step: int) -> str:
        """Elapsed time and time left, at the mean rate since the first report, which alone waited for compilation."""
        now = time.monotonic()
        since_step, since = self._first or self._started
        left = (now - since) / max(step - since_step, 1) * (self._total - step)
        return f"after {_duration(now - self._started[1])}, {_duration(left)} left"


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, as dicts; null reads as None, and a last line still being written is left out.

    Raises FileNotFoundError, and ValueError with the number of a line that is not one of metrics.
    """
    path = Path(path)
    lines, entries = path.read_bytes().splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            int(entry["step"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not a JSON object with a step: {line[:80]!r}") from error
        else:
            entries.append(entry)
    return entries


def _drop_after(path: Path, step: int) -> None:
    """Keeps the whole lines of `path` up to `step`; the file is replaced in one go, and only if that changes it."""
    if not path.exists():
        return
    kept = "".join(json.dumps(entry) + "\n" for entry in read_metrics(path) if entry["step"] <= step)
    if kept != path.read_text(encoding="utf-8", errors="replace"):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(kept, encoding="utf-8")
        temporary.replace(path)


def _summary(values: Mapping[str, float]) -> str:
    return "  ".join(_worth_showing(values))


def _worth_showing(values: Mapping[str, float]) -> Iterable[str]:
    """The total loss if there is one, else every loss; learning rate and speed; of all else that a training reports,
    every accuracy, and of an evaluation everything."""
    training = "learning_rate" in values
    for name, value in values.items():
        kind = name.rsplit("/", 1)[-1]
        if kind in _FORMATS and not (kind == "loss" and name != "loss" and "loss" in values):
            yield f"{_SHORT.get(name, name)} {_FORMATS[kind].format(value)}"
        elif kind not in _FORMATS and not training:
            yield f"{name} {value:.4g}"


def _duration(seconds: float) -> str:
    """Such as 0:07, 12:05, 3:25:00 or 2d 03:25:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

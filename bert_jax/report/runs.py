"""Finds the runs below some folders and puts the seeds of one experiment together."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.experiment import FREE_FIELDS
from bert_jax.members import RESULT_FILE
from bert_jax.tasks.published import OFFICIAL
from bert_jax.training.health import is_loss
from bert_jax.training.log import METRICS_FILE, read_metrics

# Fields of an experiment in which the runs of one variant may differ, and those that say nothing about the result.
_OF_THE_RUN = {"seed", "seeds", *FREE_FIELDS}
_UNSAID = {"eval_every", "best_metric", "init_checkpoint"}  # of no use in a table of what differs
_OF_ITS_USE = ("dropout", "attention_dropout", "dtype")  # the settings of an encoder that do not come with its weights
_RESULT_FIELDS = {"name", "seed", "step", "metrics", "baselines", "degenerate", "train_examples", "eval_examples"}
_CHECKPOINT_FOLDERS = ("model", "checkpoint", "checkpoints", "encoder")  # names that do not tell a model from another


@dataclass(frozen=True)
class Run:
    """A finished run: its workdir, its record and its results."""

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    group: Path | None
    """the folder of seeds that it is part of"""

    @property
    def seed(self) -> int:
        return self.result["seed"]


@dataclass(frozen=True)
class LeftOut:
    """A workdir that is in no table, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds of a variant; `std` is the sample standard deviation (n - 1), None for one seed."""

    values: tuple[float, ...]
    mean: float
    std: float | None
    best: float


@dataclass(frozen=True, eq=False)  # a key of dicts
class Row:
    """A variant on a held-out set: what stands in one row of a table."""

    task: str
    evaluation: str
    variant: str
    runs: tuple[Run, ...]
    """its seeds, in their order"""

    @property
    def folder(self) -> Path:
        """What a command line may call it by: the folder of its seeds, or that of its run."""
        return self.runs[0].group or self.runs[0].folder

    @property
    def degenerate(self) -> dict[int, str]:
        """Seed -> why its run is degenerate."""
        return {run.seed: run.result["degenerate"] for run in self.runs if run.result["degenerate"]}

    @property
    def metrics(self) -> dict[str, str]:
        """Metric -> its key in the results; the official one first, losses last. The name of the head is left out
        where there is only one."""
        keys = [key for key in self.runs[0].result["metrics"] if key.startswith(f"{self.evaluation}/")]
        heads = {key.split("/")[1] for key in keys}
        start = 2 if len(heads) == 1 and all(key.count("/") == 2 for key in keys) else 1
        names = {"/".join(key.split("/")[start:]): key for key in keys}
        first = OFFICIAL.get(self.task)
        if first not in names:
            best = self.runs[0].config.get("best_metric") or ""
            first = "/".join(best.split("/")[start:])
        return dict(sorted(names.items(), key=lambda item: (item[0] != first, is_loss(item[0]))))

    @property
    def official(self) -> str:
        return next(iter(self.metrics))

    def value(self, run: Run, metric: str) -> float | None:
        """In percent, but for losses; None where the run has no finite one."""
        value = run.result["metrics"].get(self.metrics[metric])
        return None if value is None else in_percent(metric, float(value))

    def summary(self, metric: str, degenerate: bool = True) -> Summary | None:
        """Over all seeds that have the metric, or over those of them that are not degenerate; None for none."""
        runs = self.runs if degenerate else [run for run in self.runs if not run.result["degenerate"]]
        return summarise([value for run in runs if (value := self.value(run, metric)) is not None], metric)

    def baseline(self, metric: str) -> float | None:
        """What the best answer reaches that ignores the input."""
        key = self.metrics[metric].removeprefix(f"{self.evaluation}/")
        value = self.runs[0].result["baselines"].get(self.evaluation, {}).get(key)
        return None if value is None else in_percent(metric, float(value))


def summarise(values: Sequence[float], metric: str) -> Summary | None:
    """Mean, sample standard deviation and best."""
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(tuple(values), float(np.mean(values)), std, (min if is_loss(metric) else max)(values))


def in_percent(metric: str, value: float) -> float:
    """Results are shares of 1, but for losses, perplexities and thresholds."""
    return 100 * value if is_share(metric) else value


def is_share(metric: str) -> bool:
    return not (is_loss(metric) or metric.endswith("threshold"))


# ---- from folders to rows --------------------------------------------------------------------------------------------


def collect(paths: Iterable[Path]) -> tuple[list[Row], list[LeftOut]]:
    """The rows of all finished runs below `paths`, by task, and the workdirs that are not finished or not whole.

    Raises FileNotFoundError for a path that is not there, ValueError where there is no run below it.
    """
    runs: dict[Path, Run] = {}
    left_out: dict[Path, LeftOut] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is no folder")
        found = list(_walk(path, None))
        if not found:
            raise ValueError(f"{path}: no workdir of a run here or below (no config.json of an experiment)")
        for item in found:
            (runs if isinstance(item, Run) else left_out).setdefault(item.folder.resolve(), item)
    groups: dict[tuple, list[Run]] = {}
    for run in runs.values():
        same = str(run.group.resolve()) if run.group else json.dumps(_settings(run.config), sort_keys=True, default=str)
        of_variant = groups.setdefault((task_of(run), same), [])
        twin = next((other for other in of_variant if other.seed == run.seed), None)
        if twin:
            reason = f"the same experiment with the same seed as {twin.folder}, which is counted"
            left_out[run.folder.resolve()] = LeftOut(run.folder, reason)
        else:
            of_variant.append(run)
    return _rows(list(groups.values())), list(left_out.values())


def _walk(folder: Path, group: Path | None) -> Iterable[Run | LeftOut]:
    """The runs at or below a folder; what belongs to a run, or to another program's model, is not looked into."""
    path = folder / "config.json"
    if not path.exists():
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink():
                yield from _walk(child, None)
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        yield LeftOut(folder, f"config.json is not JSON: {error}")
        return
    if not (isinstance(config, dict) and str(config.get("class", "")).endswith(".Experiment")):
        return
    count = config.get("seeds", 1)
    if count > 1 and group is None:
        for seed in range(config["seed"], config["seed"] + count):
            member = folder / f"seed-{seed}"
            if member.is_dir():
                yield from _walk(member, folder)
            else:
                yield LeftOut(member, f"not there, though {folder.name} is of {count} seeds")
        return
    yield _open(folder, config, group)


def _open(folder: Path, config: Mapping[str, Any], group: Path | None) -> Run | LeftOut:
    try:
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return LeftOut(folder, f"unfinished: no {RESULT_FILE}, {_progress(folder)}")
    except ValueError as error:
        return LeftOut(folder, f"{RESULT_FILE} is not JSON: {error}")
    missing = _RESULT_FIELDS - result.keys() if isinstance(result, dict) else _RESULT_FIELDS
    if missing or not result["metrics"]:
        return LeftOut(folder, f"{RESULT_FILE} has no {', '.join(sorted(missing)) or 'metrics'}")
    return Run(folder, config, result, group)


def _progress(folder: Path) -> str:
    try:
        entries = read_metrics(folder / METRICS_FILE)
    except FileNotFoundError:
        return "not one step is logged"
    except ValueError as error:
        return str(error)
    return f"logged up to step {entries[-1]['step']:,}" if entries else "not one step is logged"


def task_of(run: Run) -> str:
    """The name of the task; for one without, its kind and its training data."""
    if run.result["name"]:
        return run.result["name"]
    task = run.config["task"]
    data = task.get("data") or {}
    source = Path(str(data.get("train") or task.get("corpus") or "")).name
    return " ".join(filter(None, (task["class"].rsplit(".", 1)[-1], source.split(".")[0])))


def _rows(groups: list[list[Run]]) -> list[Row]:
    folders = [group[0].group or _common(group) for group in groups]
    root = os.path.commonpath([folder.parent.absolute() for folder in folders]) if folders else ""
    parts = [folder.absolute().relative_to(root).parts for folder in folders]
    spoken = [[part for part in of if not _same(part, task_of(g[0]))] for of, g in zip(parts, groups, strict=True)]
    labels = ["/".join(of) or folder.name for of, folder in zip(spoken, folders, strict=True)]
    named = [(task_of(group[0]), label) for group, label in zip(groups, labels, strict=True)]
    rows = []
    for (task, label), group, of in zip(named, groups, parts, strict=True):
        variant = label if named.count((task, label)) == 1 else "/".join(of)
        runs = tuple(sorted(group, key=lambda run: run.seed))
        names = dict.fromkeys(key.split("/")[0] for key in runs[0].result["metrics"])
        rows += [Row(_of_set(task, name), name, variant, runs) for name in names]
    order = [*OFFICIAL, *sorted({row.task for row in rows} - OFFICIAL.keys())]
    return sorted(rows, key=lambda row: (order.index(row.task), row.evaluation, row.variant))


def _common(group: list[Run]) -> Path:
    """What the folders of single runs of one experiment have in common: runs/sst2 of runs/sst2-1 and runs/sst2-2."""
    first = group[0].folder.absolute()
    if len(group) == 1:
        return first
    shared = os.path.commonprefix([str(run.folder.absolute()) for run in group])  # noqa: RUF071 letters, not folders
    parent, _, name = shared.rpartition(os.sep)
    name = re.sub(r"[-_. ]+(seed)?[-_. ]*$", "", name)
    return Path(parent) / name if name else Path(parent)


def _same(part: str, task: str) -> bool:
    bare = [re.sub("[^a-z0-9]", "", text.lower()) for text in (part, task)]
    return bare[0] == bare[1]


def _of_set(task: str, evaluation: str) -> str:
    return "MNLI-mm" if task == "MNLI" and "mismatched" in evaluation else task


# ---- settings --------------------------------------------------------------------------------------------------------


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _OF_THE_RUN}


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an experiment that may change its result, by their dotted names; of an encoder from `init_from`
    only those that are not its own."""

    def leaves(value: Any, name: str) -> Iterable[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from leaves(item, f"{name}.{key}".lstrip("."))
        else:
            yield name, tuple(value) if isinstance(value, list) else value

    found = {name: value for name, value in leaves(_settings(config), "") if name not in _UNSAID}
    if config.get("init_from"):
        given = {f"learner.encoder.{name}" for name in _OF_ITS_USE}
        found = {name: v for name, v in found.items() if not name.startswith("learner.encoder.") or name in given}
    return found


def differing(rows: Sequence[Row]) -> dict[Row, dict[str, Any]]:
    """For each row the settings in which the rows differ: all of those of one task, and of tasks the ones that are not
    about their data and head."""
    flat = {row: flat_settings(row.runs[0].config) for row in rows}
    found = {}
    for row in rows:
        peers = [flat[other] for other in rows if other.task == row.task]
        names = [
            name
            for name, value in flat[row].items()
            if any(
                value != other.get(name)
                for other in (peers if name.startswith(("task.", "learner.objectives.")) else flat.values())
            )
        ]
        found[row] = {name: flat[row][name] for name in names}
    return found


def model_of(run: Run) -> str:
    """What the encoder started from."""
    start = run.config.get("init_from")
    if start:
        path = Path(start)
        name = path.parent.name if path.name in _CHECKPOINT_FOLDERS and path.parent.name else path.name
        return f"{name}, random weights" if run.config.get("random_weights") else name
    encoder = run.config.get("learner", {}).get("encoder") or {}
    return f"new: {encoder.get('num_layers', '?')} layers, width {encoder.get('width', '?')}"

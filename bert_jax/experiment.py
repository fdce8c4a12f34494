"""An experiment: what is trained, on what, how; its command line, and its record in the workdir."""

import contextlib
import dataclasses
import datetime
import importlib
import importlib.metadata
import inspect
import json
import os
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import tyro

from bert_jax.data.packing import Padding
from bert_jax.data.workers import cores
from bert_jax.handover import NewPositions
from bert_jax.nn.dot import ComputeDtype
from bert_jax.training.optim import BertAdam
from bert_jax.training.processes import Processes
from bert_jax.training.sharding import MeshShape


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run, complete: built by an experiment file, its numbers changed by flags, written to `config.json`."""

    task: Annotated[Any, tyro.conf.arg(name="")]
    """where the examples come from"""
    learner: nn.Module
    """what is trained"""
    optimizer: Any = BertAdam()
    """how"""
    steps: int = 0
    """updates; or give epochs"""
    epochs: float = 0.0
    """passes over the training examples: int(examples / batch_size * epochs) updates (run_classifier.py:843)"""
    batch_size: int = 32
    """examples of the global batch, of which each is a row, or several (multiple choice)"""
    accumulate: int = 1
    """micro-batches that the batch is computed in, one after another, where its activations do not fit the memory at
    once; the result is that of the whole batch"""
    eval_batch_size: int = 256
    """examples of an evaluation batch"""
    padding: Padding = "packed"
    """what is done about it: packed, several sequences are computed in one row; trimmed, batches are as wide as their
    longest row must be; full, as wide as the data's longest may be. Nothing else depends on it, but for an encoder that
    computes padding as any token (FNet), which takes full rows alone"""
    seed: int = 12345
    """of initial weights, order, masking and dropout (12345 as create_pretraining_data.py:54)"""
    seeds: int = 1
    """runs that are trained at once, with the seeds from `seed` on, each in a folder of its own in the workdir"""
    init_from: Path | None = None
    """what to start from, all that `load` opens (a workdir, a Hugging Face or Google folder, a name on the hub): its
    encoder, its tokenizer, and the heads that both have"""
    init_checkpoint: typing.Literal["best", "latest"] = "latest"
    """which of its checkpoints"""
    random_weights: bool = False
    """take only the architecture and the tokenizer of `init_from`: the from-scratch baseline"""
    reinitialised_layers: int = 0
    """this many of the top layers of `init_from`, and the pooler, start from random weights (Zhang et al. 2021, arXiv
    2006.05987)"""
    init_optimizer: bool = False
    """take over the running means and the count of updates of the optimizer of `init_from`, too, a run of this project;
    the schedule is this run's own (`--optimizer.schedule-start`)"""
    extend_positions: NewPositions | None = None
    """where rows are longer than the position table of `init_from`, give it further rows: copied from its first ones,
    or new ones; an error if not given"""
    dropout: float | None = None
    """of the encoder that comes from `init_from`, on its outputs and its attention; as it was trained if not given"""
    dtype: ComputeDtype | None = None
    """of the operands of the dots of the encoder that comes from `init_from`; its own if not given"""
    best_metric: str = ""
    """evaluation metric whose best checkpoint is kept besides the latest, e.g. valid/classify/accuracy"""
    keep: int = 2
    """latest checkpoints kept; of several seeds at least two"""
    log_every: int = 50
    """steps between lines of metrics"""
    eval_first: bool = False
    """evaluate before the first update, too"""
    eval_every: int = 500
    """steps between evaluations; there is one at the end, too"""
    checkpoint_every: int = 500
    """steps between checkpoints; there is one at the end, too"""
    stall_seconds: float = 1800.0
    """end the process, saying where it hangs, when one step, batch of an evaluation, wait for the loader or save takes
    longer, compilation included; 0: never"""
    max_skipped_in_a_row: int = 10
    """an update whose loss or gradient is not finite is skipped; as many in a row end the run"""
    mesh: MeshShape = MeshShape()
    """how devices share the work"""
    processes: Processes = Processes()
    """which of them train together"""

    def __post_init__(self):
        if self.reinitialised_layers < 0:
            raise ValueError(f"reinitialised_layers must be 0 or more, got {self.reinitialised_layers}")
        for name in ("seeds", "batch_size", "accumulate", "eval_batch_size", "keep", "log_every", "eval_every",
                     "checkpoint_every", "max_skipped_in_a_row"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.stall_seconds < 0:
            raise ValueError(f"stall_seconds must be 0 or more, got {self.stall_seconds}")
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError(f"give steps or epochs, one of them: steps is {self.steps}, epochs is {self.epochs}")
        if self.learner.encoder is None and self.init_from is None:
            raise ValueError("nothing to start from: the learner has no encoder and init_from is not given")
        for name in ("dropout", "dtype"):
            if getattr(self, name) is not None and self.learner.encoder is not None:
                raise ValueError(
                    f"{name} is for an encoder from init_from; this learner has its own, which says it itself"
                )
        for name in ("reinitialised_layers", "init_optimizer", "extend_positions"):
            if getattr(self, name) and (self.init_from is None or self.random_weights):
                raise ValueError(f"{name} is for the weights of init_from, of which there are none")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if not 0 <= self.seed <= 2**32 - self.seeds:
            raise ValueError(f"seed must be between 0 and 2**32 - {self.seeds}, got {self.seed}")

    def total_steps(self, examples: int) -> int:
        """Updates of the run. Raises ValueError where the epochs make none."""
        steps = self.steps or int(examples / self.batch_size * self.epochs)
        if steps < 1:
            raise ValueError(f"{self.epochs} epochs of {examples} examples make no batch of {self.batch_size}")
        return steps


ENVIRONMENT_FILE = "environment.jsonl"  # of a workdir: a line a start

# What may change between a run and its continuation: it does not change what is computed.
FREE_FIELDS = (
    "task.cache", "task.cache_gigabytes",
    "mesh", "processes", "accumulate", "keep", "log_every", "checkpoint_every", "eval_batch_size", "stall_seconds",
    "max_skipped_in_a_row",
)  # fmt: skip


def parse(config: Callable[..., Experiment], args: list[str] | None = None) -> tuple[Path, Experiment]:
    """Workdir and experiment of a `command_line` that is to train. Raises ValueError for one that is not."""
    workdir, experiment, find_batch_size = command_line(config, args)
    if find_batch_size:
        raise ValueError("--find-batch-size is for an experiment file alone, not for one that is run by another")
    return workdir, experiment


def command_line(config: Callable[..., Experiment], args: list[str] | None = None) -> tuple[Path, Experiment, bool]:
    """Workdir, experiment, and whether a batch size is asked for; flags override the numbers of `config()`.

    Where `config` has parameters of its own, they are flags, too: `experiments/glue.py --task CoLA --folder GLUE ...`.
    """
    description = sys.modules[config.__module__].__doc__
    if inspect.signature(config).parameters:
        args = sys.argv[1:] if args is None else args
        asked = args[:1] in (["--help"], ["-h"])  # after others it asks for the flags of the experiment they make
        made, args = tyro.cli(config, args=args, description=description, return_unknown_args=True, add_help=asked)
    else:
        made = config()

    @dataclasses.dataclass(frozen=True)
    class Run:
        workdir: Path
        """folder of the run: a new one, or that of an interrupted run of the same experiment"""
        find_batch_size: bool = False
        """do not train, but say which --batch-size and --accumulate fit the memory of the devices"""
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = dataclasses.field(default_factory=lambda: made)

    run = tyro.cli(Run, args=args, description=description)
    return run.workdir, run.experiment, run.find_batch_size


@contextlib.contextmanager
def one_line_errors(*more: type[Exception]) -> Iterator[None]:
    """Bad input, and what else is named, ends the program with one line; `python -X dev` shows where it was found."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError, *more) as error:
        if sys.flags.dev_mode:
            raise
        sys.exit(f"error: {error}")


def encode(value: Any) -> Any:
    """An experiment, or a part of one, as JSON: a dataclass is its fields and its class; `decode` reads it back."""
    if dataclasses.is_dataclass(value):
        hidden = ("parent", "name") if isinstance(value, nn.Module) else ()
        fields = [f.name for f in dataclasses.fields(value) if f.init and f.name not in hidden]
        kind = type(value)
        module = _main_module() if kind.__module__ == "__main__" else kind.__module__
        return {"class": f"{module}.{kind.__qualname__}"} | {name: encode(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _main_module() -> str:
    """The name that the file which is run has for others, who import it: in a record, `__main__` would be theirs."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)  # of `python -m`
    return spec.name if spec else Path(getattr(main, "__file__", None) or "__main__").stem


def decode(value: Any, hint: Any = None) -> Any:
    """The inverse of `encode`. Raises ValueError for a class that cannot be found, or that is no dataclass: a record
    of somebody else's must not be able to call any function there is. So it does for a field that is not there, or of
    another type. A class whose fields had other values once says what they are now (`from_older(fields)`)."""
    if isinstance(value, dict) and "class" in value:
        module, _, name = str(value["class"]).rpartition(".")
        try:
            kind = getattr(importlib.import_module("__main__" if module == _main_module() else module), name)
        except Exception as error:  # what the module raises that is imported
            raise ValueError(
                f"class {value['class']} of the record cannot be imported: {error}. If its file is yours, its folder "
                "must be in PYTHONPATH"
            ) from None
        if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
            raise ValueError(f"{value['class']} of the record is no dataclass: `encode` writes nothing else")
        hints = typing.get_type_hints(kind)
        fields = {key: decode(item, hints.get(key)) for key, item in value.items() if key != "class"}
        try:
            fields = getattr(kind, "from_older", dict)(fields)
            for key, item in fields.items():
                if not _may_be(item, hints.get(key, Any)):
                    raise ValueError(f"{key} of {value['class']} is {item!r} in the record, expected {hints[key]}")
            return kind(**fields)
        except (TypeError, AttributeError, LookupError, ArithmeticError) as error:  # in its own checks
            raise ValueError(f"{value['class']} of the record cannot be made: {error}") from error
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    # Where a text is wanted, too, it may be a URL, of which a Path would drop a slash.
    return Path(value) if isinstance(value, str) and Path in options and str not in options else value


def _may_be(value: Any, hint: Any) -> bool:
    """Whether a value can be of a type, of which only what JSON knows and dataclasses are looked at."""
    options, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_may_be(value, option) for option in options)
    if origin is typing.Literal:
        return value in options
    if origin is tuple and options[1:] == (...,):
        return isinstance(value, tuple) and all(_may_be(item, options[0]) for item in value)
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, bool, str):
        return type(value) is hint
    if hint is None or hint is types.NoneType:
        return value is None
    return not dataclasses.is_dataclass(hint) or isinstance(value, hint)


def claim_workdir(workdir: Path, experiment: Experiment) -> None:
    """Makes the workdir this experiment's, or finds that it is.

    Raises ValueError for a workdir of another experiment (naming the fields that differ) or a folder of something else.
    """
    path = workdir / "config.json"
    if path.exists():
        check_record(path, experiment, workdir)
        return
    temporary = path.with_suffix(".tmp")  # all that a process leaves behind which is killed in here
    if workdir.exists() and set(workdir.iterdir()) - {temporary}:
        raise ValueError(f"{workdir} is not empty and holds no run (no config.json): take another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, encode(experiment))


def check_record(path: Path, experiment: Experiment, workdir: Path) -> None:
    """Raises ValueError, naming the fields that differ, where the record of a workdir is that of another experiment."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    differences = [
        line
        for line in _differences(_of_today(there), encode(experiment), "")
        if not {name := line.split(":")[0], name.split(".")[0]} & set(FREE_FIELDS)
    ]
    if differences:
        listing = "\n  ".join(differences)
        raise ValueError(f"{workdir} holds another experiment; take another --workdir. It differs in\n  {listing}")


def _of_today(record: Any) -> Any:
    """A record with defaults for the fields that have come since; where a class or a field is gone, the record as it
    stands, so that a comparison names what differs."""
    try:
        return encode(decode(record))
    except ValueError:
        return record


def write_json(path: Path, record: Any) -> None:
    """Writes JSON, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.rename(path)


def _differences(there: Any, here: Any, where: str) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            line
            for key in (there | here)
            for line in _differences(there.get(key), here.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if there == here else [f"{where}: {there!r} there, {here!r} now"]


def write_environment(workdir: Path) -> None:
    """Records what the run was made with: package versions, devices, and the commit where the code is a checkout.

    One line of JSON per start of the run, since a continuation can have another environment.
    """
    root, commit = Path(__file__).parent.parent, None
    if (root / ".git").exists() and shutil.which("git"):
        git = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(git, cwd=root, capture_output=True, text=True, check=False).stdout.strip() or None
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "sentencepiece", "numpy")
    record = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "command": sys.argv,
        "commit": commit,
        "python": sys.version.split()[0],
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "devices": [device.device_kind for device in jax.devices()],
        "cores": cores(),
    }
    with open(workdir / ENVIRONMENT_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")

"""Checkpoints of a run: written in the background, the last few and the best kept, checked before they are read.

A thin layer over Orbax. On disk the state is a nested dict of arrays whose keys are the names of the tree's path
(`params/encoder/...`, `opt_state/1/mu/...`), so that any Orbax reader can open it and no optimizer class is needed to
read the parameters. A checkpoint is written into a temporary folder and renamed when complete; one that is dropped is
first renamed away. So a folder named by a step is always a whole checkpoint, whenever the process is killed. What
happens to it later, `training.checksums` finds.
"""

import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from bert_jax.training.checksums import damage, steps_in, write_checksums


def _worth_saying(record: logging.LogRecord) -> bool:
    """Orbax reports its progress as warnings. Of what goes wrong it logs the same traceback several times over, and
    raises it: a line is enough then."""
    if "/orbax/" not in record.pathname and "async_serialize" not in record.getMessage():
        return True
    if record.exc_info:
        record.exc_info = None
    return record.levelno >= logging.ERROR and record.name != "asyncio"


for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_worth_saying)

_DROPPED = "dropped"  # where checkpoints that are no longer kept are renamed to, before they are deleted
_LISTED = 20  # names listed at most in one error message


class Checkpoints:
    """The checkpoints of one run, in one folder, one subfolder a step.

    Args:
        folder: made if it is not there. Remains of a save that was killed are removed.
        keep: the latest checkpoints kept.
        best: name of the metric whose best checkpoint is kept as well, or None.
        mode: whether the "min" or the "max" of that metric is best; not a number counts as worst.

    Only one process group may write to a folder. Use it as a context manager, or call `close`.
    """

    def __init__(
        self, folder: str | Path, *, keep: int = 3, best: str | None = None, mode: Literal["min", "max"] = "min"
    ):
        if keep < 1:
            raise ValueError(f"keep must be at least 1 checkpoint, got {keep}")
        self.folder, self.best = Path(folder).resolve(), best
        self._custom = {"best": best, "mode": mode}
        policies: list[Any] = [ocp.checkpoint_managers.LatestN(keep)]
        if best is not None:
            policies.append(
                ocp.checkpoint_managers.BestN(
                    get_metric_fn=_score(best, mode), reverse=mode == "min", n=1, keep_checkpoints_without_metrics=False
                )
            )
        self._saving = 0
        self._manager = _open(
            self.folder, best, mode,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._before_rename),
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            todelete_subdir=_DROPPED,
        )  # fmt: skip
        self._sweep()

    def save(self, step: int, state: Any, metrics: Mapping[str, Any] | None = None) -> bool:
        """Starts to save `state`, a tree of arrays, and returns once they are copied: they may be donated then.

        Waits for the save before it, and raises OSError if that, or the start of this one, failed. `metrics` (numbers
        by name) must hold the metric `best`, if given at all. A step that is already saved stays as it is; the return
        value says whether a save was started.
        """
        self.wait()
        if step in self._manager.all_steps():
            return False
        if metrics is not None and self.best is not None and self.best not in metrics:
            raise ValueError(f"no metric {self.best!r} to choose the best checkpoint by, only {', '.join(metrics)}")
        scores = None if metrics is None else {name: float(value) for name, value in metrics.items()}
        args = ocp.args.PyTreeSave(_nest(_named(state)))
        self._saving = step
        with self._failing():
            return self._manager.save(step, args=args, metrics=scores, custom_metadata=self._custom, force=True)

    def restore(self, abstract_state: Any, step: int | Literal["best"] | None = None) -> Any:
        """The state of `step`, of the best step, or of the latest (None), as a tree like `abstract_state`.

        Args:
            abstract_state: arrays or `jax.ShapeDtypeStruct`s; each leaf is put on the sharding it has there, or on the
                first device if it has none.

        Raises FileNotFoundError if there is no such checkpoint, and ValueError with the names and shapes on both sides
        if it does not hold exactly these leaves, before an array is read.
        """
        self.wait()
        step = _choose(self._manager, self.folder, step)
        wanted, saved = _named(abstract_state), _saved(self._manager, step)
        _compare(f"{self.folder / str(step)}", saved, wanted)
        nested = _nest(wanted)
        restored = self._manager.restore(
            step, args=ocp.args.PyTreeRestore(nested, restore_args=jax.tree.map(_restore_args, nested))
        )
        leaves = _named(restored)
        return jax.tree.unflatten(jax.tree.structure(abstract_state), [leaves[name] for name in wanted])

    def steps(self) -> Sequence[int]:
        """The steps saved, ascending, one being saved included."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    @property
    def best_step(self) -> int | None:
        """The step with the best metric, the later of equals; None if none was saved with metrics."""
        return None if self.best is None else self._manager.best_step()

    def wait(self) -> None:
        """Blocks until what was saved is on disk. Raises OSError if that failed."""
        with self._failing():
            self._manager.wait_until_finished()
        self._sweep()

    def check(self) -> None:
        """Raises OSError if the last save has failed; does not wait for one that is still going on."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever Orbax and TensorStore make of it
            self._manager.reload()  # it has already taken those that would have been dropped from its list
            raise OSError(
                f"checkpoint {self.folder / str(self._saving)} was not saved, those before it are as they were "
                f"({', '.join(map(str, steps_in(self.folder))) or 'none'}): {type(error).__name__}: {error}"
            ) from error

    def _before_rename(self) -> None:
        """What Orbax calls in process 0 when everything is written, by all processes, and the folder has not its name
        yet."""
        (temporary,) = self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        write_checksums(temporary, self._custom)

    def _sweep(self) -> None:
        dropped = self.folder / _DROPPED
        if jax.process_index() == 0 and dropped.exists():
            shutil.rmtree(dropped)


def restore_params(folder: str | Path, step: int | Literal["best"] | None = None) -> dict[str, Any]:
    """The parameters alone of a checkpoint in `folder`, a nested dict of numpy arrays by name; nothing is written.

    Args:
        folder: of the checkpoints of a run.
        step: a step, "best" by the metric that the run was saved with, or None for the latest.

    Raises FileNotFoundError if there is no such checkpoint, ValueError if it has no best, is damaged, or holds no
    `params`.
    """
    return restore_part(folder, "params", step)


def restore_part(folder: str | Path, part: str, step: int | Literal["best"] | None = None) -> dict[str, Any]:
    """As `restore_params`, of what is saved under the name `part`."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of checkpoints at {folder}")
    there = steps_in(folder)
    first = step if isinstance(step, int) else max(there, default=None)  # the latest says what the best is chosen by
    if first in there:
        _refuse_damaged(there[first])
    with _open(folder, None, "min", read_only=True, create=False) as manager:
        custom = manager.metadata(_choose(manager, folder, first)).custom_metadata
    with _open(folder, custom["best"], custom["mode"], read_only=True, create=False) as manager:
        if step == "best" and custom["best"] is None:
            raise ValueError(f"the run in {folder} named no metric to choose its best checkpoint by")
        step = _choose(manager, folder, step)
        if step != first:
            _refuse_damaged(folder / str(step))
        leaves = _nest({n: leaf for n, leaf in _saved(manager, step).items() if n.startswith(f"{part}/")})
        if not leaves:
            raise ValueError(f"checkpoint {folder / str(step)} holds no {part}")
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), leaves)
        args = ocp.args.PyTreeRestore(leaves, restore_args=as_numpy, partial_restore=True)
        return manager.restore(step, args=args)[part]


def _refuse_damaged(checkpoint: Path) -> None:
    if why := damage(checkpoint):
        raise ValueError(
            f"checkpoint {checkpoint} is damaged: {why}. The command of the run, started again, puts it aside and goes "
            "on from the one before"
        )


def _open(folder: Path, best: str | None, mode: str, **options) -> ocp.CheckpointManager:
    # What all devices hold is written by one of them, unless other processes can share the work: Orbax would cut it
    # into a piece for each device by a program that is compiled for each shape, 0.02 s each, of hundreds of arrays.
    kinds = ocp.type_handlers
    handlers = {
        jax.Array: kinds.ArrayHandler(use_replica_parallel=jax.process_count() > 1),
        np.ndarray: kinds.NumpyHandler(),
    } | dict.fromkeys((np.number, int, float), kinds.ScalarHandler())
    registry = kinds.create_type_handler_registry(*handlers.items())
    # Weights hardly compress: measured 8 % for eight times the processor time.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
    options = ocp.CheckpointManagerOptions(best_fn=best and _score(best, mode), best_mode=mode, **options)
    return ocp.CheckpointManager(folder, item_handlers=handler, options=options)


def _score(best: str, mode: str):
    worst = math.inf if mode == "min" else -math.inf
    return lambda metrics: worst if math.isnan(metrics.get(best, math.nan)) else metrics[best]


def _choose(manager: ocp.CheckpointManager, folder: Path, step: int | Literal["best"] | None) -> int:
    there = sorted(manager.all_steps())
    chosen = manager.best_step() if step == "best" else max(there, default=None) if step is None else step
    if chosen not in there:
        which = "at all" if step is None else "with metrics" if step == "best" else f"of step {step}"
        found = f"steps there: {', '.join(map(str, there))}" if there else "the folder holds none"
        raise FileNotFoundError(f"no checkpoint {which} in {folder}; {found}")
    return chosen


def _restore_args(leaf) -> ocp.ArrayRestoreArgs:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _named(tree) -> dict[str, Any]:
    """Leaves by the names of their path, joined by "/", in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return nested


def _saved(manager: ocp.CheckpointManager, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    leaves = _named(manager.item_metadata(step).tree)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def _compare(where: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError listing the leaves that differ in name, shape or dtype."""

    def show(leaf):
        return f"{np.dtype(leaf.dtype).name} {tuple(leaf.shape)}"

    lines = [f"{n}: {show(saved[n])} in the checkpoint, {show(wanted[n])} in this run" for n in saved
             if n in wanted and show(saved[n]) != show(wanted[n])]  # fmt: skip
    lines += [f"{n}: {show(saved[n])} in the checkpoint, not in this run" for n in saved if n not in wanted]
    lines += [f"{n}: not in the checkpoint, {show(wanted[n])} in this run" for n in wanted if n not in saved]
    if lines:
        more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        raise ValueError(
            f"checkpoint {where} does not fit this run (another model or optimizer?):\n  "
            + "\n  ".join(lines[:_LISTED] + more)
        )

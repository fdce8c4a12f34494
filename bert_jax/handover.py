"""What a run takes over from an earlier one besides its weights: more positions than it had, and its optimizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.nn.linear import kernel_init
from bert_jax.training.checkpoint import restore_part

NewPositions = Literal["copied", "new"]


def extend_positions(
    params: Mapping[str, Any], rows: int, how: NewPositions, stddev: float, seed: int, first: int = 0
) -> Any:
    """The parameters with a position table of `rows`, at least as many as it has.

    Args:
        params: with `encoder/embeddings/positions/table`; nothing else is changed.
        how: `copied` repeats the rows from the first one on (Beltagy et al. 2020, arXiv 2004.05150, section 5): near
            tokens stay near, but a token cannot tell its position from that one table further on until it has learned
            to. `new` draws rows from the initialiser, as positions are that no training row was long enough for.
        stddev: of the initialiser.
        seed: of new rows.
        first: row of the first token; what is before it, as in RoBERTa's table, is not repeated.
    """
    encoder = params["encoder"]
    embeddings = encoder["embeddings"]
    table = np.asarray(embeddings["positions"]["table"])
    missing = rows - len(table)
    if how == "copied":
        table = np.concatenate([table[:first], table[first:][np.arange(rows - first) % (len(table) - first)]])
    elif missing:
        drawn = kernel_init(stddev)(jax.random.key(seed), (missing, table.shape[1]), jnp.float32)
        table = np.concatenate([table, np.asarray(drawn)])
    embeddings = dict(embeddings) | {"positions": {"table": table}}
    return dict(params) | {"encoder": dict(encoder) | {"embeddings": embeddings}}


def saved_moments(workdir: Path, checkpoint: Literal["best", "latest"]) -> dict[str, Any]:
    """Adam's state in a checkpoint of a run: `mu` and `nu`, nested by name, and `count`, as numpy arrays.

    Raises ValueError for what is no run of this project, or one whose optimizer has no such moments.
    """
    folder = Path(workdir) / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"init_optimizer takes the optimizer of a run, but {workdir} is no workdir with checkpoints")
    found = _adam_state(restore_part(folder, "opt_state", "best" if checkpoint == "best" else None))
    if found is None:
        raise ValueError(f"the optimizer of {workdir} has no moments (mu, nu, count) to take over")
    return found


def with_moments(opt_state: Any, moments: Mapping[str, Any]) -> Any:
    """`opt_state` with the moments and the count of updates of an earlier run; its schedule begins anew.

    A moment of what the earlier run did not have (a new head, more positions) stays 0. Of several runs together all
    have the same. Each array keeps its dtype and lies where it lay. Raises ValueError where no moment fits.
    """
    taken = 0

    def take(name, path, leaf):
        nonlocal taken
        value = moments[name]
        for key in path:
            if not isinstance(value, Mapping) or key.key not in value:
                return leaf
            value = value[key.key]
        value, shape = np.asarray(value, np.float32), leaf.shape[leaf.ndim - np.ndim(value) :]
        if value.shape[1:] != shape[1:] or value.shape[:1] > shape[:1]:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"the optimizer to take over has a moment of {where} {value.shape}, here it is {shape}")
        taken += 1
        if value.shape != shape:
            value = np.concatenate([value, np.zeros((shape[0] - len(value), *shape[1:]), np.float32)])
        return jax.device_put(np.broadcast_to(value, leaf.shape).astype(leaf.dtype), leaf.sharding)

    def of_adam(node):
        if not isinstance(node, optax.ScaleByAdamState):
            return node
        mu, nu = (
            jax.tree_util.tree_map_with_path(lambda path, leaf, name=name: take(name, path, leaf), getattr(node, name))
            for name in ("mu", "nu")
        )
        count = np.broadcast_to(np.asarray(moments["count"], np.int32), node.count.shape)
        return optax.ScaleByAdamState(jax.device_put(count, node.count.sharding), mu, nu)

    kept = jax.tree.map(of_adam, opt_state, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))
    if not taken:
        raise ValueError("no moment of the optimizer to take over is of a parameter that is trained here")
    return kept


def _adam_state(node: Any) -> dict[str, Any] | None:
    """The first dict that has the fields of Adam's state, of those nested in `node`."""
    if not isinstance(node, Mapping):
        return None
    if {"mu", "nu", "count"} <= node.keys():
        return dict(node)
    return next((found for child in node.values() if (found := _adam_state(child)) is not None), None)

"""The model over rows of any length: those of similar length together, padded to one of a few lengths.

The rows are cut into batches from the longest to the shortest. A batch is as long as its first row, padded to the next
of 16, 24, 32, 48, 64, ... (`padded_length`), or, where there is work for many batches, to one of some lengths between:
of 10,000 sentences, 4 % is then padding and not 22 %. All batches of one length have the same number of rows, so
each length is compiled once.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.data.packing import padded_length
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.mlm import Mlm
from bert_jax.text.tokenizer import Encoding

# Tokens of a batch with its padding. A CPU is at its full speed from 512 on, and more would only make a single text
# wait for its filler rows; an accelerator needs many.
CPU_TOKENS, ACCELERATOR_TOKENS = 512, 16384

# Batches between two of the lengths from which on finer ones between them are worth their compilation.
MANY_BATCHES = 8

Pooling = Literal["mean", "cls", "pooled"]


def batch_rows(length: int) -> int:
    """Rows of a batch of this padded length."""
    return max(1, (CPU_TOKENS if jax.default_backend() == "cpu" else ACCELERATOR_TOKENS) // length)


def run(
    step: Callable[[dict[str, np.ndarray]], Any],
    encodings: Sequence[Encoding],
    longest: int,
    which: np.ndarray | None = None,
    positions: np.ndarray | None = None,
    full_of: int | None = None,
) -> list[Any]:
    """What `step` computes of each row, in the order of the rows.

    Args:
        step: of a batch (`tokens`, `segments` [B, L], `lengths` [B], `positions_wanted` [B, P] if there are any) an
            array or a tuple of arrays, each with the rows as first axis.
        encodings: none longer than `longest`.
        longest: rows of the position table.
        which: int [n], for each row the index of its encoding, if not each encoding is one row.
        positions: int32 [n, P] places in each row.
        full_of: the id of padding, of which all rows are full up to `longest`, for an encoder that computes it as any
            token; by default rows are padded as far as their batch must be.

    Returns a numpy array, or a tuple of them, for each row; without the first axis, and padding not removed.
    """
    which = np.arange(len(encodings)) if which is None else which
    found: list[Any] = [None] * len(which)

    def collect(rows: np.ndarray, computed: Any) -> None:
        computed = jax.device_get(computed)
        for i, row in enumerate(rows):
            found[row] = tuple(part[i] for part in computed) if isinstance(computed, tuple) else computed[i]

    waiting = None  # fetched only when the device has the next batch to work on
    for rows, batch in _batches(encodings, which, positions, longest, full_of):
        computed = step(batch)
        if waiting is not None:
            collect(*waiting)
        waiting = rows, computed
    if waiting is not None:
        collect(*waiting)
    return found


def _batches(
    encodings: Sequence[Encoding], which: np.ndarray, positions: np.ndarray | None, longest: int, full_of: int | None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(indices of the rows, batch): the longest first, so that what does not fit into memory shows at once."""
    lengths = np.array([len(encoding.ids) for encoding in encodings], np.int64)[which]
    padded = _padded_lengths(lengths, longest) if full_of is None else np.full_like(lengths, longest)
    order, start = np.argsort(-padded, kind="stable"), 0
    while start < len(order):
        length = int(padded[order[start]])
        size = batch_rows(length)
        rows = order[start : start + size]
        # Id 0 and length 1 where there is no row: attention then sees a key, and nothing becomes NaN.
        batch = {name: np.zeros((size, length), np.int32) for name in ("tokens", "segments")}
        batch["tokens"] += full_of or 0
        batch["lengths"] = np.ones(size, np.int32)
        batch["lengths"][: len(rows)] = lengths[rows]
        real = np.arange(length) < lengths[rows, None]
        own = [encodings[i] for i in which[rows]]
        batch["tokens"][: len(rows)][real] = np.concatenate([encoding.ids for encoding in own])
        batch["segments"][: len(rows)][real] = np.concatenate([encoding.segments for encoding in own])
        if positions is not None:
            batch["positions_wanted"] = np.zeros((size, positions.shape[1]), np.int32)
            batch["positions_wanted"][: len(rows)] = positions[rows]
        yield rows, batch
        start += size


def _padded_lengths(lengths: np.ndarray, longest: int) -> np.ndarray:
    """What each row would be padded to: a `padded_length`, or where there are many rows one of those between."""
    ladder = np.array([0, *(padded_length(length, longest) for length in range(1, longest + 1))])
    padded = ladder[lengths]
    for length in np.unique(ladder[1:]).tolist():
        members = padded == length
        if np.count_nonzero(members) >= MANY_BATCHES * batch_rows(length):
            step = max(2, (1 << (length - 1).bit_length()) // 16)
            padded[members] = np.minimum(-(-lengths[members] // step) * step, length)
    return padded


# ---- what is computed on the device: no array over the whole vocabulary leaves it ------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def vectors(
    model: Multitask, params: Any, batch: Mapping[str, Any], pooling: Pooling, layer: int, normalise: bool
) -> jax.Array:
    """One vector [B, D] float32 of each row; see `predictors.embed`. `layer` counts from 0, the embeddings."""

    def method(model: Multitask) -> jax.Array:
        encoded = model.encoder(batch, False)
        if pooling == "pooled":
            return encoded.pooled_or_error().astype(jnp.float32)
        inner = encoded.intermediates
        hidden = (inner["embeddings"] if layer == 0 else inner["layers"][layer - 1]).astype(jnp.float32)
        if pooling == "cls":
            return hidden[:, 0]
        lengths = batch["lengths"][:, None]
        real = jnp.arange(hidden.shape[1]) < lengths
        return jnp.sum(hidden * real[..., None], axis=1) / lengths

    found = model.apply({"params": params}, method=method)
    if normalise:
        found /= jnp.maximum(jnp.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found


@functools.partial(jax.jit, static_argnums=(0, 3))
def logits(model: Multitask, params: Any, batch: Mapping[str, Any], head: str) -> jax.Array:
    """The scores of a head that is not over the vocabulary: [B, C], or [B, L, C] of one that looks at every token."""
    return _outputs(model, params, batch, head, "logits")


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def likeliest(
    model: Multitask, params: Any, batch: Mapping[str, Any], head: str, pieces: int, top_k: int
) -> tuple[jax.Array, jax.Array]:
    """Probabilities and ids [B, P, K] of the likeliest tokens at `positions_wanted`, the likeliest first.

    pieces: ids from here on are rows of a padded table and no pieces: they are part of the softmax, but never chosen.
    """
    shares = jax.nn.softmax(_outputs(model, params, batch, head, "mlm_logits"), axis=-1)
    values, ids = jax.lax.top_k(shares[..., :pieces], top_k)
    return values, ids


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def masked_log_probability(
    model: Multitask, params: Any, batch: Mapping[str, Any], head: str, mask_id: int
) -> jax.Array:
    """Log probability [B], in nats, of the token at the one wanted position of each row, which the model sees masked"""
    tokens, place = jnp.asarray(batch["tokens"]), batch["positions_wanted"]
    rows = jnp.arange(tokens.shape[0])[:, None]
    wanted, masked = tokens[rows, place], tokens.at[rows, place].set(mask_id)
    logits = _outputs(model, params, dict(batch) | {"tokens": masked}, head, "mlm_logits")
    return jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), wanted[..., None], axis=-1)[:, 0, 0]


def _outputs(model: Multitask, params: Any, batch: Mapping[str, Any], head: str, name: str) -> jax.Array:
    """One output of one head; where positions are wanted, the head sees these tokens only."""

    def method(model: Multitask) -> jax.Array:
        encoded, objective = model.encoder(batch, False), model.objectives[head]
        if isinstance(objective, Mlm):
            wanted = jnp.asarray(batch["positions_wanted"])[..., None]
            encoded = encoded._replace(hidden=jnp.take_along_axis(encoded.hidden, wanted, axis=1))
        return objective.outputs(encoded)[name]

    return model.apply({"params": params}, method=method)

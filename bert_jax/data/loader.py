"""Batches as a pure function of (seed, step): nothing to save, and any number of processes sees the same run.

A source has `len(source)` and `source.read(indices) -> {name: array [n, ...]}`, and reads whole batches.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import grain
import numpy as np

from bert_jax.data.order import shuffled


@runtime_checkable
class Source(Protocol):
    """Examples by index."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples `indices` [n]; every array has a leading axis of rows: n of them, or a multiple of it where an
        example is several rows, which follow each other; `example` uint32 is the number of each row."""
        ...


def lengths_of(source: Source, indices: np.ndarray) -> np.ndarray:
    """Tokens in each row of examples, without reading them where the source knows (`lengths_of`, or `lengths` of all
    rows)."""
    if hasattr(source, "lengths_of"):
        return source.lengths_of(indices)
    if hasattr(source, "lengths"):
        return np.reshape(source.lengths, (len(source), -1))[indices].reshape(-1)
    return source.read(indices)["lengths"]


class TrainingBatches:
    """`batches[step]`: the batch of that step, drawn from a new global shuffle in each epoch.

    Epochs follow one another without a seam, so a batch can hold the end of one and the start of the next
    (run_classifier.py:541-544 repeats before it shuffles, too).

    Args:
        source: the examples.
        batch_size: examples of the global batch.
        seed: of the shuffles.
        own: those of the global batch that this process reads; all of it by default.
    """

    def __init__(self, source: Source, batch_size: int, seed: int, own: slice | np.ndarray = slice(None)):
        if len(source) == 0:
            raise ValueError("no training examples")
        self._source, self._batch_size, self._seed, self._own = source, batch_size, seed, own

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        batch = self._source.read(self._examples(step)[self._own])
        return batch | {"weight": np.ones(len(batch["example"]), np.float32)}

    def lengths(self, step: int) -> np.ndarray:
        """Tokens in each row of the global batch."""
        return lengths_of(self._source, self._examples(step))

    def _examples(self, step: int) -> np.ndarray:
        places = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        return shuffled(places, len(self._source), self._seed)


class EvaluationBatches:
    """`batches[i]`: every example once, in order; the last batch is filled up with copies of its first example, whose
    weight is 0 (run_classifier.py:892-937).

    Args:
        source: the examples.
        batch_size: examples of the global batch.
        own: those of the global batch that this process reads; all of it by default.
    """

    def __init__(self, source: Source, batch_size: int, own: slice | np.ndarray = slice(None)):
        self._source, self._batch_size, self._own = source, batch_size, own

    def __len__(self) -> int:
        return -(-len(self._source) // self._batch_size)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        examples, real = (part[self._own] for part in self._examples(i))
        batch = self._source.read(examples)
        return batch | {"weight": np.repeat(real.astype(np.float32), len(batch["example"]) // len(examples))}

    def lengths(self, i: int) -> np.ndarray:
        """Tokens in each row of the global batch; 0 in those that fill it up."""
        examples, real = self._examples(i)
        lengths = lengths_of(self._source, examples)
        return lengths * np.repeat(real, len(lengths) // len(real))

    def real(self, i: int) -> int:
        """Examples of the global batch that do not fill it up, which are the first."""
        return int(self._examples(i)[1].sum())

    def _examples(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= i < len(self):
            raise IndexError(f"batch {i} of {len(self)}")
        indices = np.arange(i * self._batch_size, (i + 1) * self._batch_size)
        real = indices < len(self._source)
        return np.where(real, indices, indices[0]), real


def stream(
    batch_of: Callable[[int], dict[str, np.ndarray]], start: int, stop: int, prefetch: int = 4
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of the steps from `start` to `stop`, read ahead by `prefetch` in threads, in order."""
    options = grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.range(start, stop).map(batch_of).to_iter_dataset(options))

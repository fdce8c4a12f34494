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


class TrainingBatches:
    """`batches[step]`: the batch of that step, drawn from a new global shuffle in each epoch.

    Epochs follow one another without a seam, so a batch can hold the end of one and the start of the next
    (run_classifier.py:541-544 repeats before it shuffles, too).

    Args:
        source: the examples.
        batch_size: rows of the global batch.
        seed: of the shuffles.
        rows: the part of the global batch that this process reads; all of it by default.
    """

    def __init__(self, source: Source, batch_size: int, seed: int, rows: slice = slice(None)):
        if len(source) == 0:
            raise ValueError("no training examples")
        self._source, self._batch_size, self._seed, self._rows = source, batch_size, seed, rows

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        places = np.arange(step * self._batch_size, (step + 1) * self._batch_size)[self._rows]
        batch = self._source.read(shuffled(places, len(self._source), self._seed))
        return batch | {"weight": np.ones(len(batch["example"]), np.float32)}


def stream(
    batch_of: Callable[[int], dict[str, np.ndarray]], start: int, stop: int, prefetch: int = 4
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of the steps from `start` to `stop`, read ahead by `prefetch` in threads, in order."""
    options = grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.range(start, stop).map(batch_of).to_iter_dataset(options))


def evaluation_batches(source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order; the last batch is filled up with copies of weight 0 (run_classifier.py:892-937)."""
    for start in range(0, len(source), batch_size):
        indices = np.arange(start, start + batch_size)
        real = indices < len(source)
        batch = source.read(np.where(real, indices, 0))
        yield batch | {"weight": np.repeat(real.astype(np.float32), len(batch["example"]) // batch_size)}

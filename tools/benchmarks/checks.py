"""That a peer does the same work: on the same batches, from the same loss."""

from collections.abc import Iterator

import numpy as np

# How far the first losses may lie apart: the same arithmetic in another order, or bfloat16's rounding.
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}


def check_loss(ours: float, theirs: float, dtype: str) -> None:
    """Raises ValueError where two first losses, from the same weights and batch without dropout, are not the same."""
    if not abs(ours - theirs) <= TOLERANCES[dtype]:
        raise ValueError(f"the first loss is {theirs:.5f} and ours {ours:.5f}: that is not the same work")


def masked_batches(file: str) -> Iterator[dict[str, np.ndarray]]:
    """The batches that a preparation has masked, each array without its axis of batches."""
    with np.load(file) as found:
        arrays = dict(found)
    for batch in zip(*arrays.values(), strict=True):
        yield dict(zip(arrays, batch, strict=True))

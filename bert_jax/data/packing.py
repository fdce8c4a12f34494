"""Batches without padding: several sequences in one row, or rows no longer than they must be.

Packing changes nothing but the place where a token is computed: the batch keeps its rows and gains a plan, by which the
encoder fills rows with whole sequences (`nn.packing`) and gives its hidden states back in the rows of the batch. Of all
that makes the shapes of a plan the batch alone decides, so that a run which is continued, or which is started again,
computes the same. There are few such shapes, since each is compiled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

Padding = Literal["packed", "trimmed", "full"]

SHORTEST = 16
# The arrays of a batch that have a column for each token.
TOKEN_COLUMNS = ("tokens", "segments", "continues", "tags")


def padded_length(length: int, longest: int) -> int:
    """The length that a row of `length` tokens is padded to, in a model that takes rows up to `longest`: the next of
    16, 24, 32, 48, 64, ... (powers of two and half as much again)."""
    power = SHORTEST
    while power < length:
        half_more = power * 3 // 2
        power = half_more if half_more >= length else 2 * power
    return min(power, longest)


def row_count(rows: int) -> int:
    """The number of rows that a plan of `rows` is filled up to: 1 to 16, 18, 20, ... 32, 36, ... 64, 72, ...; so less
    than an eighth of them are empty."""
    step = max(1, (1 << (rows - 1).bit_length()) // 16)
    return -(-rows // step) * step


def best_fit(lengths: Int[np.ndarray, " B"], width: int) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"], int]:
    """Row and first column of each sequence, and the number of rows: the longest first, each into the fullest row that
    still takes it (best-fit decreasing). Sequences of no token get no place."""
    rows, columns = np.zeros((2, len(lengths)), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(width + 1)]  # by the columns that they have left
    left = count = 0  # the bits of `left` are the numbers of columns for which there is an open row
    for i in np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)].tolist():
        length = int(lengths[i])
        fitting = left >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                left ^= 1 << free
        else:
            free, row, count = width, count, count + 1
        rows[i], columns[i] = row, width - free
        free -= length
        open_rows[free].append(row)
        left |= 1 << free
    return rows, columns, count


def plan(lengths: Int[np.ndarray, " B"], columns: int, width: int, groups: int = 1) -> Int[np.ndarray, "G R M"]:
    """Where each token of a batch is computed: int32 [G, R, M], G groups of R rows of M = `width` columns.

    A group holds the sequences of an equal part of the batch's rows, so that devices which split them exchange nothing.
    At each place stands the index b * `columns` + l of a token in the part's arrays [B / G, `columns`], -1 where there
    is none. R is the same for all groups, and a `row_count`.

    Args:
        lengths: tokens of each sequence, none longer than `width`; one of 0 gets no place.
    """
    parts = np.reshape(lengths, (groups, -1))
    placed = [best_fit(part, width) for part in parts]
    count = row_count(max(1, *(rows for _, _, rows in placed)))
    packing = np.full((groups, count * width), -1, np.int32)
    tokens = np.arange(parts[0].size * columns, dtype=np.int32)
    for own, part, (row, column, _) in zip(packing, parts, placed, strict=True):
        starts = (row * width + column).tolist()
        for first, (start, length) in enumerate(zip(starts, part.tolist(), strict=True)):
            own[start : start + length] = tokens[first * columns : first * columns + length]
    return packing.reshape(groups, count, width)


def trimmed(batch: Mapping[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
    """The batch with the first `width` columns of its tokens."""
    return {name: values[:, :width] if name in TOKEN_COLUMNS else values for name, values in batch.items()}


@runtime_checkable
class Bounded(Protocol):
    """What a layout asks of a source; where it has `lengths` of all its rows, they are looked at, too."""

    @property
    def max_length(self) -> int: ...


@runtime_checkable
class Batches(Protocol):
    """Numbered batches, of which a process may read only its own rows, and the lengths of all rows."""

    def __getitem__(self, i: int) -> dict[str, np.ndarray]: ...

    def lengths(self, i: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Layout:
    """How the batches of a source are laid out.

    Packed rows are as wide as the longest row of the source must be, and no wider: that is one width, so that shapes
    differ in the number of rows only, rows are narrow for attention, whose cost grows with the width, and short rows
    leave less unused at the end of a small batch.

    Attributes:
        padding: "packed" puts several sequences in one row; where that gains nothing it is "trimmed", which cuts the
            columns of a batch that are padding in all its rows, up to the next `padded_length`; "full" cuts nothing.
        width: of packed rows, and the most that is left of others.
        groups: of devices that split the rows of a batch.
        own: those of the groups whose rows this process reads; all of them by default.
    """

    padding: Padding
    width: int
    groups: int = 1
    own: tuple[int, ...] | None = None

    @classmethod
    def of(cls, source: Bounded, padding: Padding, groups: int = 1, own: tuple[int, ...] | None = None) -> "Layout":
        """The layout of a source."""
        lengths = getattr(source, "lengths", (source.max_length,))
        return cls(padding, padded_length(int(np.max(lengths)), source.max_length), groups, own)

    def __call__(
        self, batches: Sequence[Mapping[str, np.ndarray]], lengths: Sequence[np.ndarray] | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Batches that are computed together, in one shape; `packing` is in those that are packed.

        Args:
            batches: the rows that this process reads.
            lengths: tokens in each row of the global batches, 0 in one that only fills a batch up, which is not packed;
                those of `batches` if they are whole. They decide on the shape, so that all processes have the same.
        """
        if self.padding == "full":
            return [dict(batch) for batch in batches]
        if lengths is None:
            lengths = [np.where(batch["weight"] > 0, batch["lengths"], 0) for batch in batches]
        width = padded_length(max(int(own.max()) for own in lengths), self.width)
        if self.padding == "packed":
            plans = [plan(own, self.width, self.width, self.groups) for own in lengths]
            rows = max(own.shape[1] for own in plans)
            if self.groups * rows * self.width < len(lengths[0]) * width:
                plans = [own if self.own is None else own[list(self.own)] for own in plans]
                return [
                    trimmed(batch, self.width)
                    | {"packing": np.pad(own, ((0, 0), (0, rows - own.shape[1]), (0, 0)), constant_values=-1)}
                    for batch, own in zip(batches, plans, strict=True)
                ]
        return [trimmed(batch, width) for batch in batches]

    def batches(self, orders: Sequence[Batches], i: int) -> list[dict[str, np.ndarray]]:
        """Batch `i` of each of the orders, which are computed together."""
        lengths = None if self.own is None else [order.lengths(i) for order in orders]
        return self([order[i] for order in orders], lengths)

"""Rows of named fields: from TSV, CSV and JSON Lines files, compressed or not, and from TFDS data sets."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.data.documents import numbered_lines
from bert_jax.data.tfds import PREFIX, read_rows


@dataclass(frozen=True)
class Row:
    """The fields of one row, and where it stands: text, or a list where the file has one (JSON Lines, TFDS); "" for
    null. A row that could not be read has a `fault`."""

    fields: dict[str, Any]
    place: str
    fault: str = ""


@dataclass(frozen=True)
class Tables:
    """Labelled rows for training and evaluation. A source is a file, by its name `.tsv` or `.txt` (tabs, no quoting, as
    GLUE's), `.csv` (quoted) or `.jsonl`, also `.gz` or `.xz`; or `tfds:NAME@SPLIT`. `a+b` reads one after the other."""

    train: str
    """training rows"""
    valid: tuple[str, ...] = ()
    """held-out rows: one source is evaluated as `valid`, several by their names; without any, a part of `train` is"""
    valid_share: float = 0.1
    """of the training rows, drawn at random, where `valid` is not given"""
    text_columns: tuple[str, ...] = ("text",)
    """fields that are read"""
    label_column: str = "label"
    """field to predict"""
    columns: tuple[str, ...] = ()
    """names of the fields of a TSV or CSV file without a header"""
    train_limit: int = 0
    """use this many training rows, drawn at random; 0 uses all"""
    valid_limit: int = 0
    """the same of each held-out source"""
    draw_seed: int = 0
    """of these draws"""
    skip_bad_rows: bool = False
    """leave out rows that cannot be read, with an empty text, or a label that is none, and say how many; by default
    they are an error"""
    tfds_dir: str | None = None
    """where prepared TFDS data sets are"""

    def __post_init__(self):
        for name in ("train_limit", "valid_limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1, or 0 for all")
        if not 0 < self.valid_share < 1:
            raise ValueError(f"valid_share {self.valid_share}: must be above 0 and below 1")

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.text_columns, self.label_column)

    @cached_property
    def all_train_rows(self) -> list[Row]:
        """The training rows before `train_limit`."""
        return self._split[0]

    @cached_property
    def label_rows(self) -> list[Row]:
        """What the labels are found in: all rows of `train`, also those held out of it, which may have a rare one."""
        return [row for part in self._split for row in part]

    @cached_property
    def train_rows(self) -> list[Row]:
        return draw(self.all_train_rows, self.train_limit, self.draw_seed, "train_limit", self.train)

    @cached_property
    def valid_rows(self) -> dict[str, list[Row]]:
        """Held-out rows by the name of their evaluation."""
        sources = {source: self.read(source) for source in self.valid} or {self.train: self._split[1]}
        names = ["valid"] if len(sources) == 1 else [source_name(source) for source in sources]
        if len(set(names)) < max(len(names), len(self.valid)):
            raise ValueError(f"the names of the held-out sources are the same: {', '.join(self.valid)}")
        return {
            name: draw(rows, self.valid_limit, self.draw_seed, "valid_limit", source)
            for name, (source, rows) in zip(names, sources.items(), strict=True)
        }

    def read(self, source: str) -> list[Row]:
        """All rows of a source."""
        return [
            row
            for one in source_parts(source)
            for row in read_table(one, self.fields, self.columns, self.tfds_dir, self.skip_bad_rows)
        ]

    def empty_field(self, row: Row, fields: tuple[str, ...] = ()) -> str | None:
        """Says which field of a row is empty, of these or of all; None if none is."""
        values = {field: row.fields[field] for field in fields or self.fields}
        empty = [field for field, value in values.items() if not value or not str(value).strip()]
        return f"field {empty[0]!r} is empty" if empty else None

    def notes(self, reason_of: Callable[[Row], str | None]) -> list[str]:
        """How many rows of which source were left out as bad, for the reader of the log."""
        lines = []
        for name, rows in ({"train": self.all_train_rows} | self.valid_rows).items():
            kept, first = usable(rows, reason_of, self.skip_bad_rows)
            if first:
                bad = len(rows) - len(kept)
                lines.append(f"{bad:,} of {len(rows):,} rows of {name} are left out, the first: {first}")
        return lines

    @cached_property
    def _split(self) -> tuple[list[Row], list[Row]]:
        rows = self.read(self.train)
        if self.valid:
            return rows, []
        order = np.random.default_rng(self.draw_seed).permutation(len(rows))
        held_out = set(order[: max(1, round(self.valid_share * len(rows)))].tolist())
        if len(held_out) == len(rows):
            raise ValueError(f"{self.train}: {len(rows)} rows are too few to hold some out: give valid")
        return (
            [row for i, row in enumerate(rows) if i not in held_out],
            [row for i, row in enumerate(rows) if i in held_out],
        )


def draw(items: list, limit: int, seed: int, name: str, source: str) -> list:
    """`limit` of the items, drawn at random without repeats; all for 0. Raises ValueError where there are fewer."""
    if not limit:
        return items
    if limit > len(items):
        raise ValueError(f"{name} {limit}: {source} has only {len(items)}")
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))[:limit]]


def usable(rows: list[Row], reason_of: Callable[[Row], str | None], skip: bool) -> tuple[list[Row], str]:
    """The rows that nothing is wrong with, and what is wrong with the first of the others.

    Args:
        reason_of: says what is wrong with a row, None if nothing is.
        skip: leave bad rows out; else the first one is a ValueError with file and line.
    """
    kept, first = [], ""
    for row in rows:
        reason = row.fault or reason_of(row)
        if reason is None:
            kept.append(row)
        elif not skip:
            raise ValueError(f"{row.place}: {reason}; --data.skip-bad-rows leaves such rows out")
        else:
            first = first or f"{row.place}: {reason}"
    if not kept:
        raise ValueError(f"every row is bad; {first}")
    return kept, first


def source_parts(source: str) -> list[str]:
    """The sources that `a+b` names: a file may have a plus in its name, and a TFDS split be a sum (`train+test`)."""
    if Path(source).exists():
        return [source]
    return re.split(rf"\+(?={PREFIX})" if source.startswith(PREFIX) else r"\+", source)


def source_name(source: str) -> str:
    """How a source is called in metrics and files: the split, or the file's name without the suffixes of its format
    (names like eng.testa and eng.testb are a custom)."""
    if source.startswith(PREFIX):
        return source.partition("@")[2]
    return re.sub(r"(\.(tsv|csv|txt|jsonl?|conllu?|gz|xz))+$", "", Path(source).name)


def read_table(
    source: str | Path,
    columns: tuple[str, ...],
    header: tuple[str, ...] = (),
    tfds_dir: str | None = None,
    keep_faults: bool = False,
) -> list[Row]:
    """The rows of a source, with the fields `columns`.

    Args:
        header: names of the fields of a TSV or CSV file whose first line is a row.
        keep_faults: a short or long row, or bad JSON, is a row with a `fault` and not an error, for `usable`.

    Raises FileNotFoundError, or ValueError with file, line and field for a missing column, a short row or bad JSON.
    """
    rows = []
    for place, fields in _reader(source, header, tfds_dir):
        if isinstance(fields, str):
            if not keep_faults:
                raise ValueError(f"{place}: {fields}")
            rows.append(Row(dict.fromkeys(columns, ""), place, fields))
            continue
        missing = [column for column in columns if column not in fields]
        if missing:
            raise ValueError(f"{place}: no field {missing[0]!r}; it has {', '.join(map(repr, fields))}")
        rows.append(Row({column: _text(fields[column]) for column in columns}, place))
    if not rows:
        raise ValueError(f"{source}: no rows")
    return rows


def _reader(
    source: str | Path, header: tuple[str, ...], tfds_dir: str | None
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(place, fields) of each row, or (place, what is wrong with it)."""
    if str(source).startswith(PREFIX):
        return read_rows(str(source), tfds_dir)
    path = Path(source)
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix not in (".gz", ".xz")), "")
    readers = {".tsv": _read_tsv, ".txt": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if kind not in readers:
        raise ValueError(f"{path}: the name says no format; one of {', '.join(readers)}, optionally .gz or .xz")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return readers[kind](path, header)


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return "" if value is None else str(value)


def _read_tsv(path, header):
    yield from _delimited(path, header, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_csv(path, header):
    yield from _delimited(path, header, delimiter=",")


def _delimited(path, header, **dialect):
    reader = csv.reader((line + "\n" for _, line in numbered_lines(path)), strict=True, **dialect)
    try:
        first = "the header" if not header else "the list of columns"
        header = header or next(reader, [])
        for values in reader:
            place = f"{path}, line {reader.line_num}"
            if not values:
                continue
            if len(values) != len(header):
                yield place, f"{len(values)} fields, but {first} has {len(header)}"
            else:
                yield place, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _read_jsonl(path, header):
    if header:
        raise ValueError(f"{path}: the fields of JSON Lines have names already, columns are for .tsv and .csv")
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            yield place, f"not JSON: {error}"
            continue
        yield place, fields if isinstance(fields, dict) else f"a JSON object is wanted, not {type(fields).__name__}"

"""Rows of named fields: from TSV, CSV and JSON Lines files, compressed or not, and from TFDS data sets."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bert_jax.data.documents import numbered_lines
from bert_jax.data.held_out import check_sources, draw, held_out, source_parts, split
from bert_jax.data.tfds import PREFIX, read_rows

# What JSON can say, but no file and no tokenizer can hold: half of a character of two UTF-16 units.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


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
    """fields that are read; `a/b` is the field b inside of a (JSON Lines, TFDS)"""
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
        check_sources(self)

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
        return held_out(self, self.read, lambda: self._split[1])

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
        return split(self, rows, range(len(rows)), "rows")


def usable(rows: list[Row], reason_of: Callable[[Row], str | None], skip: bool) -> tuple[list[Row], str]:
    """The rows that nothing is wrong with, and what is wrong with the first of the others.

    Args:
        reason_of: says what is wrong with a row, None if nothing is. That its texts are Unicode is seen to here.
        skip: leave bad rows out; else the first one is a ValueError with file and line.
    """
    kept, first = [], ""
    for row in rows:
        reason = row.fault or reason_of(row) or _not_unicode(row)
        if reason is None:
            kept.append(row)
        elif not skip:
            raise ValueError(f"{row.place}: {reason}; --data.skip-bad-rows leaves such rows out")
        else:
            first = first or f"{row.place}: {reason}"
    if not kept:
        raise ValueError(f"every row is bad; {first}")
    return kept, first


def _not_unicode(row: Row) -> str | None:
    for field, value in row.fields.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and LONE_SURROGATE.search(text):
                return f"field {field!r} is not Unicode: {text!r}"
    return None


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

    Raises FileNotFoundError, or ValueError with file, line and field for a missing column, one that holds fields of its
    own, a short row or bad JSON.
    """
    rows = []
    for place, fields in _reader(source, header, tfds_dir):
        if isinstance(fields, str):
            if not keep_faults:
                raise ValueError(f"{place}: {fields}")
            rows.append(Row(dict.fromkeys(columns, ""), place, fields))
            continue
        found = {}
        for column in columns:
            try:
                found[column] = _text(_inside(fields, column), column)
            except KeyError:
                raise ValueError(f"{place}: no field {column!r}; it has {', '.join(map(repr, fields))}") from None
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
        rows.append(Row(found, place))
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


def _inside(fields: Any, column: str) -> Any:
    """The field of that name; `a/b` is the field b of the object a, or of each object of the list a. KeyError if there
    is none."""
    if isinstance(fields, list):
        return [_inside(item, column) for item in fields]
    if not isinstance(fields, dict):
        raise KeyError(column)
    outer, slash, inner = column.partition("/")
    return _inside(fields[outer], inner) if slash and column not in fields else fields[column]


def _text(value: Any, column: str) -> Any:
    if isinstance(value, dict):
        inner = ", ".join(repr(f"{column}/{name}") for name in value) or "nothing"
        raise ValueError(f"field {column!r} is no text, it holds fields of its own: {inner}")
    if isinstance(value, list):
        return [_text(item, column) for item in value]
    return "" if value is None else str(value)


def _read_tsv(path, header):
    lines = ((number, line.split("\t")) for number, line in numbered_lines(path) if line)
    yield from _with_names(path, lines, header)


def _read_csv(path, header):
    reader = csv.reader((line + "\n" for _, line in numbered_lines(path)), strict=True)
    try:
        yield from _with_names(path, ((reader.line_num, values) for values in reader if values), header)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _with_names(path: Path, lines: Iterable[tuple[int, list[str]]], header: tuple[str, ...]):
    """The rows of a file whose first one is the header, if none is given."""
    first = "the header" if not header else "the list of columns"
    lines = iter(lines)
    names = list(header) or next(lines, (0, []))[1]
    # Of two fields of one name neither is it; where they stand makes a name.
    names = [name if names.count(name) == 1 else f"{name} (column {i})" for i, name in enumerate(names, 1)]
    for number, values in lines:
        if len(values) != len(names):
            yield f"{path}, line {number}", f"{len(values)} fields, but {first} has {len(names)}"
        else:
            yield f"{path}, line {number}", dict(zip(names, values, strict=True))


def _read_jsonl(path, header):
    if header:
        raise ValueError(f"{path}: the fields of JSON Lines have names already, columns are for .tsv and .csv")
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of too many digits, and what is nested too deep
            yield place, f"not JSON: {error}"
            continue
        yield place, fields if isinstance(fields, dict) else f"a JSON object is wanted, not {type(fields).__name__}"

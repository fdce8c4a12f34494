"""Rows of named fields from TSV, CSV and JSON Lines files, compressed or not."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from bert_jax.data.documents import numbered_lines


@dataclass(frozen=True)
class Row:
    """The fields of one row, and where it stands."""

    fields: dict[str, str]
    place: str


def read_table(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """The rows of a file, by its name `.tsv` (no quoting, as GLUE's), `.csv` (quoted) or `.jsonl`, also `.gz`, `.xz`.

    TSV and CSV have a header. Raises FileNotFoundError, or ValueError with file, line and field for a missing column,
    a short row or bad JSON.
    """
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix not in (".gz", ".xz")), "")
    readers = {".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if kind not in readers:
        raise ValueError(f"{path}: the name says no format; one of {', '.join(readers)}, optionally .gz or .xz")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    rows = []
    for place, fields in readers[kind](path):
        missing = [column for column in columns if fields.get(column) is None]
        if missing:
            raise ValueError(f"{place}: no field {missing[0]!r}; it has {', '.join(map(repr, fields))}")
        rows.append(Row({column: str(fields[column]) for column in columns}, place))
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def _read_tsv(path):
    yield from _delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_csv(path):
    yield from _delimited(path, delimiter=",")


def _delimited(path, **dialect):
    reader = csv.reader((line + "\n" for _, line in numbered_lines(path)), strict=True, **dialect)
    try:
        header = next(reader, [])
        for values in reader:
            place = f"{path}, line {reader.line_num}"
            if not values:
                continue
            if len(values) != len(header):
                raise ValueError(f"{place}: {len(values)} fields, but the header has {len(header)}")
            yield place, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _read_jsonl(path):
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ValueError(f"{place}: a JSON object is wanted, not {type(fields).__name__}")
        yield place, fields

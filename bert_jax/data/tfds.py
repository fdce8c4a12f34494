"""TFDS data sets by name, read with random access and without TensorFlow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PREFIX = "tfds:"
READ_AT_ONCE = 64  # records; single reads are many times slower


def open_records(name: str, split: str, data_dir: str | None = None) -> tuple[Sequence[dict], Mapping[str, Any]]:
    """The records of a split (slices included: "train[:10%]") and the features of the data set by name.

    A data set that is not on disk is downloaded and prepared as ArrayRecord first. Raises ValueError for one that
    cannot be read: no such data set or split, or prepared in another file format.
    """
    # Imported here: the import takes a second, and only this source needs it. The submodules register builders that
    # are "not found" without TensorFlow otherwise.
    import tensorflow_datasets as tfds
    import tensorflow_datasets.question_answering
    import tensorflow_datasets.summarization
    import tensorflow_datasets.text
    import tensorflow_datasets.text_simplification
    import tensorflow_datasets.translate

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        features = dict(builder.info.features.items())
        records = tfds.data_source(name, split=split, data_dir=data_dir)
    except Exception as error:  # TFDS raises many kinds, some with pages of text: all mean that it cannot be read
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"TFDS data set {name!r}, split {split!r}: cannot be read: {reason}") from error
    return records, features


def numbered_records(records: Sequence[dict], first: int = 0, last: int | None = None) -> Iterator[tuple[int, dict]]:
    """(index, record) from `first` to one before `last`, in order; all of them by default."""
    last = len(records) if last is None else last
    for start in range(first, last, READ_AT_ONCE):
        stop = min(start + READ_AT_ONCE, last)
        yield from enumerate(records.__getitems__(list(range(start, stop))), start)


def read_rows(source: str, data_dir: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, fields) of each record of `tfds:NAME@SPLIT`, as those of a file: bytes are text, the number of a class is
    its name, sequences are lists.

    Raises ValueError where the source does not say a split, or cannot be read.
    """
    name, at, split = source.removeprefix(PREFIX).partition("@")
    if not name or not at or not split:
        raise ValueError(f"{source}: name a split, {PREFIX}{name or 'glue/sst2'}@train")
    records, features = open_records(name, split, data_dir)
    for index, record in numbered_records(records):
        place = f"{source}, record {index}"
        yield place, {key: _plain(value, features[key], f"{place}, field {key!r}") for key, value in record.items()}


def _plain(value: Any, feature: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        inner = getattr(feature, "feature", feature)  # a Sequence of a dict is a dict of arrays
        return {key: _plain(item, inner[key], place) for key, item in value.items()}
    if getattr(value, "ndim", 0) or isinstance(value, list):
        inner = getattr(feature, "feature", feature)
        return [_plain(item, inner, place) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{place}: not UTF-8 at byte offset {error.start}") from error
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)) if int(value) >= 0 else ""  # -1: the test sets of GLUE have no labels
    return value.item() if hasattr(value, "item") else value

"""Streams documents from text files and TFDS data sets, one document in memory at a time."""

import gzip
import hashlib
import html
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from bert_jax.data.tfds import numbered_records, open_records

Format = Literal["auto", "plain", "sentences", "wikiextractor"]
FORMATS: tuple[str, ...] = get_args(Format)

# Hard-wrapped text breaks at 60 to 80 columns; a longer line was not wrapped by hand and is a paragraph of its own.
LONGEST_WRAPPED_LINE = 120

PART_RECORDS = 10_000  # of a data set that a machine reads at once: some 50 MB of Wikipedia

DOC_START = re.compile(r"<doc(?:\s[^>]*)?>")
DOC_TITLE = re.compile(r'\btitle="([^"]*)"')


class Document(NamedTuple):
    """One document: the unit within which the next sentence is the real one."""

    paragraphs: list[str]
    sentences: bool = False  # True: each entry is one sentence already and is not split again


def as_document(document: Document | str | Sequence[str]) -> Document:
    """A document given as plain text (paragraphs between blank lines) or as a list of paragraphs."""
    if isinstance(document, Document):
        return document
    if isinstance(document, str):
        return Document(list(plain_paragraphs(document.split("\n"))))
    return Document(list(document))


@dataclass(frozen=True)
class TextFiles:
    """The documents of text files, in order; iterate over it as often as wanted. UTF-8, `.gz` and `.xz` are unpacked.

    Formats:
      plain: a file is one document; blank lines separate paragraphs; hard-wrapped lines are joined.
      sentences: one sentence a line, a blank line ends a document (the original's input,
        create_pretraining_data.py:185-203).
      wikiextractor: `<doc ...>` to `</doc>`; each line is a paragraph; the line that repeats the title is dropped,
        since it is no sentence; the HTML entities that WikiExtractor writes (`&amp;`) become characters again.
      auto: wikiextractor for a file whose first line of text starts with `<doc `, plain otherwise. It never guesses
        `sentences`, which looks like hard-wrapped text.

    Raises:
      FileNotFoundError: a file is missing (at construction).
      ValueError: no files, a folder, an empty file, an unknown format (at construction); text that is not UTF-8, a
        damaged archive, a file without text, an unterminated `<doc>` (while reading).
    """

    paths: Sequence[str | Path]
    format: str = "auto"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"unknown text format {self.format!r}; choose one of {', '.join(FORMATS)}")
        if not self.paths:
            raise ValueError("no text files given")
        for path in map(Path, self.paths):
            if path.is_dir():
                raise ValueError(f"{path} is a folder; give the files in it, for instance {path}/*")
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such text file")
            if path.stat().st_size == 0:
                raise ValueError(f"{path} is empty (0 bytes)")

    def __iter__(self) -> Iterator[Document]:
        for path in map(Path, self.paths):
            documents = 0
            for documents, document in enumerate(self._documents(path), 1):  # noqa: B007 (counted for the check below)
                yield document
            if not documents:
                raise ValueError(f"{path} holds no text; remove it from the list of files")

    def _documents(self, path: Path) -> Iterator[Document]:
        format, lines = self._format_of(path), numbered_lines(path)
        if format == "wikiextractor":
            yield from _wikiextractor(path, lines)
        elif format == "sentences":
            yield from _sentences(lines)
        elif paragraphs := list(plain_paragraphs(line for _, line in lines)):
            yield Document(paragraphs)

    def _format_of(self, path: Path) -> str:
        if self.format != "auto":
            return self.format
        first = next((line for _, line in numbered_lines(path) if line.strip()), "")
        return "wikiextractor" if first.lstrip().startswith("<doc ") else "plain"

    def parts(self) -> "list[TextFiles]":
        """The files one by one."""
        return [replace(self, paths=(path,)) for path in self.paths]

    def describe(self) -> list[dict]:
        """What the corpus card says of each file: its path as given, its format, its size on disk and its sha256."""
        return [self._describe(path) for path in map(Path, self.paths)]

    def _describe(self, path: Path) -> dict:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"path": str(path), "format": self._format_of(path), "bytes": path.stat().st_size, "sha256": digest}


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of a UTF-8 file; a byte order mark is dropped.

    Only a line feed ends a line: other Unicode line separators stay in the text.

    Raises:
      ValueError: bytes that are not UTF-8, named with file, line and byte offset (in the unpacked text), or a damaged
        or cut-off archive.
    """
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    offset = 0
    with opener(path, "rb") as file:
        try:
            for number, raw in enumerate(file, 1):
                line = raw.decode("utf-8")
                yield number, (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")
                offset += len(raw)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not UTF-8: byte 0x{raw[error.start]:02x} at byte offset "
                f"{offset + error.start}{'' if opener is open else ' of the unpacked text'}; convert the file to UTF-8"
            ) from error
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"{path}: archive damaged or cut off after {offset} bytes of text: {error}") from error


def plain_paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Paragraphs of plain text: blocks between blank lines, hard-wrapped lines joined with a space.

    A block with a line of more than 120 characters was not hard-wrapped: each of its lines is a paragraph.
    """
    block: list[str] = []
    for line in chain(lines, [""]):
        line = line.strip()
        if line:
            block.append(line)
        elif block:
            wrapped = max(map(len, block)) <= LONGEST_WRAPPED_LINE
            yield from [" ".join(block)] if wrapped else block
            block = []


def _sentences(lines: Iterator[tuple[int, str]]) -> Iterator[Document]:
    document: list[str] = []
    for _, line in lines:
        line = line.strip()
        if line:
            document.append(line)
        elif document:  # several blank lines end one document: empty ones are dropped, 203-205
            yield Document(document, sentences=True)
            document = []
    if document:
        yield Document(document, sentences=True)


def _wikiextractor(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Document]:
    paragraphs: list[str] | None = None  # None: between two documents
    opened, title = 0, None
    for number, line in lines:
        line = line.strip()
        if DOC_START.fullmatch(line):
            if paragraphs is not None:
                raise ValueError(f"{path}, line {number}: <doc> inside the <doc> of line {opened}, which has no </doc>")
            paragraphs, opened = [], number
            match = DOC_TITLE.search(line)
            title = html.unescape(match[1]).strip() if match else None
        elif line == "</doc>":
            if paragraphs is None:
                raise ValueError(f"{path}, line {number}: </doc> without a <doc ...> before it")
            if paragraphs:
                yield Document(paragraphs)
            paragraphs = None
        elif line and paragraphs is None:
            raise ValueError(f"{path}, line {number}: text outside of <doc ...> and </doc>: {line[:60]!r}")
        elif line:
            line = html.unescape(line)
            if title is None or html.unescape(line) != html.unescape(title):
                paragraphs.append(line)
            title = None  # only the first line can be the title
    if paragraphs is not None:
        raise ValueError(f"{path}, line {opened}: <doc> without </doc>: the file ends inside a document")


@dataclass(frozen=True)
class TfdsText:
    """The documents of a TFDS data set, one a record, read with random access and without TensorFlow.

    Args:
      name: as TFDS names it, "wiki40b/en"; a data set not on disk is downloaded and prepared as ArrayRecord first.
      split: TFDS split, slices included ("train[:10%]").
      field: feature that holds the text; None finds it: the only text feature, or the one called "text".
      data_dir: where prepared data sets are; None is TFDS's own default.
      records: the first of them, and one after the last; None takes all.

    Raises:
      ValueError: (while reading, before the first document) no such data set, split or text feature, or a data set that
        is prepared in another file format than ArrayRecord.
    """

    name: str
    split: str = "train"
    field: str | None = None
    data_dir: str | None = None
    records: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Document]:
        records, field = self._open()
        for index, record in numbered_records(records, *self.records or (0, len(records))):
            try:
                text = record[field].decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"TFDS {self.name}, split {self.split}, record {index}, field {field!r}: not UTF-8 at byte "
                    f"offset {error.start}"
                ) from error
            paragraphs = wiki40b_paragraphs(text) if "_START_ARTICLE_" in text else as_document(text).paragraphs
            if paragraphs:
                yield Document(paragraphs)

    def parts(self) -> "list[TfdsText]":
        """PART_RECORDS records each."""
        count = len(self._open()[0])
        return [
            replace(self, records=(first, min(first + PART_RECORDS, count))) for first in range(0, count, PART_RECORDS)
        ]

    def describe(self) -> list[dict]:
        """What the corpus card says of the data set: name, split and field; there is no single file to hash."""
        return [{"tfds": self.name, "split": self.split, "field": self._open()[1]}]

    def _open(self) -> tuple[Sequence[dict], str]:
        records, features = open_records(self.name, self.split, self.data_dir)
        return records, self._text_field([key for key, feature in features.items() if _is_text(feature)])

    def _text_field(self, fields: list[str]) -> str:
        field = self.field or (fields[0] if len(fields) == 1 else "text")
        if field not in fields:
            raise ValueError(f"no text field {field!r}; its text fields are {', '.join(fields) or 'none'}; name one")
        return field


def _is_text(feature: object) -> bool:
    import tensorflow_datasets as tfds

    # ClassLabel and others derive from Tensor, Text from Tensor too: only Text holds strings that are prose.
    return isinstance(feature, tfds.features.Text)


def wiki40b_paragraphs(text: str) -> list[str]:
    """Paragraphs of a Wiki-40B article without its markers; its title is dropped, as for WikiExtractor files.

    The markers stand on lines of their own, `_NEWLINE_` between the paragraphs of a section.
    """
    paragraphs, skip = [], False
    for line in text.replace("_NEWLINE_", "\n").split("\n"):
        line = line.strip()
        if line in ("_START_ARTICLE_", "_START_SECTION_", "_START_PARAGRAPH_"):
            skip = line == "_START_ARTICLE_"
        elif line:
            if not skip:
                paragraphs.append(line)
            skip = False
    return paragraphs

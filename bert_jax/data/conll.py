"""Sentences of words with a tag each: CoNLL columns, CoNLL-U, JSON Lines and TFDS data sets."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from bert_jax.data.documents import numbered_lines
from bert_jax.data.held_out import check_sources, draw, held_out, source_parts, split
from bert_jax.data.tables import LONE_SURROGATE, Row, read_table, usable
from bert_jax.data.tfds import PREFIX

# How tags mark entities: bio is also called IOB2; iob1, CoNLL-2003's own, marks a beginning only where an entity of the
# same type ends right before it, and is converted to bio; plain tags, such as parts of speech, mark none.
Scheme = Literal["bio", "iob1", "iobes", "plain"]
# The letters that say where in its entity a word stands, O aside.
LETTERS: dict[str, str] = {"bio": "BI", "iob1": "BI", "iobes": "BIES", "plain": ""}
DOCUMENT_START = "-DOCSTART-"
# Word and tag, from 1: first and last column; FORM and UPOS of CoNLL-U's ten; the names of the lists elsewhere.
COLUMNS, CONLLU_COLUMNS, FIELDS = ("1", "-1"), ("2", "4"), ("words", "tags")


@dataclass(frozen=True)
class Sentence(Row):
    """Words with a tag each, as the fields `words` and `tags`.

    Attributes:
        place: of the first word, or of what is wrong.
        lines: the line of each word, where words have lines.
        document: the readable sentences of its document, itself among them, in order; where the source marks no
            documents, itself alone.
    """

    lines: tuple[int, ...] = ()
    document: list["Sentence"] = field(default_factory=list, compare=False, repr=False)

    @property
    def words(self) -> list[str]:
        return self.fields["words"]

    @property
    def tags(self) -> list[str]:
        return self.fields["tags"]


@dataclass(frozen=True)
class TaggedFiles:
    """Tagged sentences for training and evaluation. A source is a file: `.conllu`, `.jsonl` with a list of words and
    one of tags, by any other name CoNLL columns (separated by tabs or spaces, a blank line after each sentence,
    -DOCSTART- before each document); also `.gz` or `.xz`; or `tfds:NAME@SPLIT`. `a+b` reads one after the other."""

    train: str
    """training sentences"""
    valid: tuple[str, ...] = ()
    """held-out ones: one source is evaluated as `valid`, several by their names; without any, a part of `train` is"""
    valid_share: float = 0.1
    """of the training documents, drawn at random, where `valid` is not given; of the sentences if none are marked"""
    word_column: str = ""
    """number of the column from 1 on (-1: the last), by default the first, FORM in CoNLL-U; elsewhere the name of the
    field, by default words (tokens in tfds:conll2003)"""
    tag_column: str = ""
    """the same of the tag: by default the last, UPOS in CoNLL-U; elsewhere tags (ner in tfds:conll2003)"""
    scheme: Scheme = "bio"
    """how tags mark entities; plain: they do not (parts of speech)"""
    train_limit: int = 0
    """use this many training sentences, drawn at random; 0 uses all"""
    valid_limit: int = 0
    """the same of each held-out source"""
    draw_seed: int = 0
    """of these draws"""
    skip_bad_rows: bool = False
    """leave out sentences with a short or long row, an empty word, or a tag that is none, and say how many; by default
    they are an error"""
    tfds_dir: str | None = None
    """where prepared TFDS data sets are"""

    def __post_init__(self):
        check_sources(self)

    @cached_property
    def all_train_sentences(self) -> list[Sentence]:
        """The training sentences before `train_limit`."""
        return self._split[0]

    @cached_property
    def tag_sentences(self) -> list[Sentence]:
        """What the tags are found in: all sentences of `train`, also those held out, which may have a rare one."""
        return [sentence for part in self._split for sentence in part]

    @cached_property
    def train_sentences(self) -> list[Sentence]:
        return draw(self.all_train_sentences, self.train_limit, self.draw_seed, "train_limit", self.train)

    @cached_property
    def valid_sentences(self) -> dict[str, list[Sentence]]:
        """Held-out sentences by the name of their evaluation."""
        return held_out(self, self.read, lambda: self._split[1])

    def read(self, source: str) -> list[Sentence]:
        """All sentences of a source, those with a `fault` among them."""
        options = (self.word_column, self.tag_column, self.scheme, self.tfds_dir)
        return [sentence for one in source_parts(source) for sentence in read_sentences(one, *options)]

    def usable(self, sentences: list[Sentence]) -> list[Sentence]:
        """Those that nothing is wrong with. Raises ValueError for the others unless they are skipped."""
        return usable(sentences, lambda sentence: None, self.skip_bad_rows)[0]

    @cached_property
    def _split(self) -> tuple[list[Sentence], list[Sentence]]:
        sentences = self.read(self.train)
        # A sentence of a training document could be a held-out one's context.
        return split(self, sentences, [id(sentence.document) for sentence in sentences], "documents")


def read_sentences(
    source: str | Path, word_column: str = "", tag_column: str = "", scheme: Scheme = "bio", tfds_dir: str | None = None
) -> list[Sentence]:
    """The sentences of a source; what is wrong with one is its `fault`, with the file and the line as its `place`.

    Args:
        word_column, tag_column, scheme, tfds_dir: as `TaggedFiles` has them.

    Raises FileNotFoundError; ValueError for a source without sentences or that is not UTF-8, a column that is no
    number, a field that is not there.
    """
    path = Path(source)
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix not in (".gz", ".xz")), "")
    if str(source).startswith(PREFIX) or kind == ".jsonl":
        columns = (word_column or FIELDS[0], tag_column or FIELDS[1])
        found = [_of_lists(row, columns, scheme) for row in read_table(source, columns, (), tfds_dir, keep_faults=True)]
    else:
        defaults = CONLLU_COLUMNS if kind == ".conllu" else COLUMNS
        columns = (word_column or defaults[0], tag_column or defaults[1])
        if wrong := [column for column in columns if not re.fullmatch("-?[1-9][0-9]*", column)]:
            raise ValueError(f"{source}: column {wrong[0]!r}: give its number, from 1 on, or from -1 back")
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        blocks = _conllu_blocks(path) if kind == ".conllu" else _blocks(path)
        found = [_of_block(path, *block, columns, scheme) for block in blocks]
    if not found:
        raise ValueError(f"{source}: no sentences")
    return found


def bio(tags: Sequence[str]) -> list[str]:
    """IOB1 as BIO: an I that begins an entity becomes B (Tjong Kim Sang and Veenstra 1999). BIO stays as it is."""
    return [
        "B" + tag[1:] if tag[0] == "I" and (before == "O" or before[1:] != tag[1:]) else tag
        for before, tag in zip(["O", *tags], tags, strict=False)
    ]


def _blocks(path: Path) -> Iterator[tuple[list[tuple[int, list[str]]], list[Sentence] | None]]:
    """(rows of a sentence, each its line number and columns; its document if documents are marked)."""
    rows: list[tuple[int, list[str]]] = []
    document: list[Sentence] | None = None
    for number, line in numbered_lines(path):
        marks = line.startswith(DOCUMENT_START)
        if line.strip() and not marks:
            # Not at all white space: a no-break space, say, is part of its word.
            rows.append((number, line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))))
            continue
        if rows:
            yield rows, document
            rows = []
        document = [] if marks else document
    if rows:
        yield rows, document


def _conllu_blocks(path: Path) -> Iterator[tuple[list[tuple[int, list[str]]], list[Sentence] | None]]:
    """The same of CoNLL-U (universaldependencies.org/format.html): without comments, multi-word tokens (8-9) and empty
    nodes (8.1), which are no words. Comments stand before a sentence, so one ends the sentence before it, too."""
    rows: list[tuple[int, list[str]]] = []
    document: list[Sentence] | None = None
    for number, line in numbered_lines(path):
        if line.strip() and not line.startswith("#"):
            columns = line.split("\t")
            if not re.fullmatch("[0-9]+[-.][0-9]+", columns[0]):
                rows.append((number, columns))
            continue
        if rows:
            yield rows, document
            rows = []
        document = [] if re.match(r"#\s*newdoc\b", line) else document
    if rows:
        yield rows, document


def _of_block(path, rows, document, columns, scheme) -> Sentence:
    words, tags, lines = [], [], []
    for number, values in rows:
        fault = ""
        if len(values) != len(rows[0][1]):
            fault = f"{len(values)} columns, but the sentence begins with {len(rows[0][1])} in line {rows[0][0]}"
        places = [int(column) - (int(column) > 0) for column in columns]
        missing = [column for column, i in zip(columns, places, strict=True) if not -len(values) <= i < len(values)]
        if missing:
            fault = fault or f"no column {missing[0]}, there are {len(values)}"
        elif places[0] % len(values) == places[1] % len(values):
            fault = fault or f"word and tag are the same column of {len(values)}"
        if not fault:
            word, tag = (values[i] for i in places)
            fault = _fault(word, tag, scheme)
        if fault:
            return _unreadable(f"{path}, line {number}", fault)
        words.append(word)
        tags.append(tag)
        lines.append(number)
    return _sentence(words, tags, f"{path}, line {lines[0]}", scheme, tuple(lines), document)


def _of_lists(row: Row, columns: tuple[str, str], scheme: Scheme) -> Sentence:
    if row.fault:
        return _unreadable(row.place, row.fault)
    for column in columns:
        if not isinstance(row.fields[column], list) or not all(isinstance(item, str) for item in row.fields[column]):
            return _unreadable(row.place, f"field {column!r} is no list of texts")
    words, tags = (row.fields[column] for column in columns)
    if len(words) != len(tags):
        return _unreadable(row.place, f"{len(words)} words, but {len(tags)} tags")
    if not words:
        return _unreadable(row.place, "no words")
    for i, (word, tag) in enumerate(zip(words, tags, strict=True), 1):
        if fault := _fault(word, tag, scheme):
            return _unreadable(row.place, f"word {i}: {fault}")
    return _sentence(words, tags, row.place, scheme, (), None)


def _fault(word: str, tag: str, scheme: Scheme) -> str:
    if not word.strip(" ") or not tag.strip(" "):
        return f"the {'tag' if word.strip(' ') else 'word'} is empty"
    if LONE_SURROGATE.search(word):
        return f"the word {word!r} is not Unicode"
    if scheme != "plain" and not re.fullmatch(f"O|[{LETTERS[scheme]}](-.+)?", tag):
        kinds = ", ".join(f"{letter}-type" for letter in LETTERS[scheme])
        return f"{tag!r} is no tag of the scheme {scheme} (O, {kinds}); --data.scheme plain takes any"
    return ""


def _sentence(words, tags, place, scheme, lines, document) -> Sentence:
    tags = bio(tags) if scheme == "iob1" else tags
    document = [] if document is None else document
    sentence = Sentence({"words": words, "tags": tags}, place, lines=lines, document=document)
    document.append(sentence)
    return sentence


def _unreadable(place: str, fault: str) -> Sentence:
    return Sentence({"words": [], "tags": []}, place, fault)

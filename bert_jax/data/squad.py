"""Questions about texts: SQuAD 1.1 and 2.0 from JSON files and TFDS, as windows that a model reads."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.data.documents import numbered_lines
from bert_jax.data.features import Features
from bert_jax.data.held_out import check_sources, draw, held_out, source_parts, split
from bert_jax.data.spans import covering_tokens, windows
from bert_jax.data.tables import Row, usable
from bert_jax.data.tfds import PREFIX, read_rows
from bert_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class SquadFiles:
    """Questions for training and evaluation. A source is a SQuAD JSON file (`.json`, also `.gz` or `.xz`), or
    `tfds:NAME@SPLIT`. `a+b` reads one after the other."""

    train: str
    """questions to train on"""
    valid: tuple[str, ...] = ()
    """held-out questions: one source is evaluated as `valid`, several by their names; without any, a part of `train`
    is"""
    valid_share: float = 0.1
    """of the articles of `train`, drawn at random, where `valid` is not given"""
    unanswerable: bool = False
    """questions without an answer are part of the task, as in SQuAD 2.0; else they are bad ones"""
    drop_ambiguous: bool = True
    """do not train on questions that the file marks `answer_start_ambiguous`: their answer may stand elsewhere"""
    train_limit: int = 0
    """train on this many questions, drawn at random; 0 uses all"""
    valid_limit: int = 0
    """the same of each held-out source"""
    draw_seed: int = 0
    """of these draws"""
    skip_bad_rows: bool = False
    """leave out questions without text, and those whose answer is not where the file says, and say how many; by
    default they are an error"""
    tfds_dir: str | None = None
    """where prepared TFDS data sets are"""

    def __post_init__(self):
        check_sources(self)

    @cached_property
    def train_rows(self) -> list[Row]:
        rows = [row for row in self._split[0] if not (self.drop_ambiguous and row.fields["ambiguous"])]
        if not rows:
            raise ValueError(f"{self.train}: every question is marked answer_start_ambiguous, and drop_ambiguous is on")
        return draw(rows, self.train_limit, self.draw_seed, "train_limit", self.train)

    @cached_property
    def valid_rows(self) -> dict[str, list[Row]]:
        """Held-out questions by the name of their evaluation."""
        return held_out(self, lambda source: self._read[source][0], lambda: self._split[1])

    def notes(self) -> list[str]:
        """What was left out, for the reader of the log."""
        lines = [line for _, line in self._read.values() if line]
        ambiguous = sum(row.fields["ambiguous"] for row in self._split[0])
        if ambiguous and self.drop_ambiguous:
            lines.append(f"{ambiguous:,} of {len(self._split[0]):,} questions of {self.train} are not trained on: ")
            lines[-1] += "the file marks them answer_start_ambiguous"
        return lines

    @cached_property
    def _read(self) -> dict[str, tuple[list[Row], str]]:
        """Of each source the usable questions, and how many others there are."""
        found = {}
        for source in (self.train, *self.valid):
            rows = [row for one in source_parts(source) for row in read_questions(one, self.tfds_dir)]
            kept, first = usable(rows, self._fault, self.skip_bad_rows)
            bad = f"{len(rows) - len(kept):,} of {len(rows):,} questions of {source} are left out, the first: {first}"
            found[source] = kept, bad if first else ""
        return found

    @cached_property
    def _split(self) -> tuple[list[Row], list[Row]]:
        rows = self._read[self.train][0]
        kind = "articles (questions on one article cannot be split)"
        return split(self, rows, [row.fields["title"] for row in rows], kind)

    def _fault(self, row: Row) -> str | None:
        """What is wrong with a question; None if nothing is."""
        fields = row.fields
        for name in ("question", "context"):
            if not fields[name].strip():
                return f"field {name!r} is empty"
        if fields["impossible"] and fields["answers"]:
            return "is_impossible, but it has answers"
        if not fields["answers"] and not fields["impossible"]:
            return "it has no answer, and is_impossible is false"
        if fields["impossible"] and not self.unanswerable:
            return "it has no answer: --data.unanswerable is for data sets with such questions, as SQuAD 2.0"
        for text, start in fields["answers"]:
            there = fields["context"][max(start, 0) : max(start, 0) + len(text)]
            if not text.strip():
                return "an answer is empty"
            if start < 0 or there != text:
                return f"the answer {text!r} is not at character {start} of the context, where {there!r} stands"
        return None


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_questions(source: str | Path, tfds_dir: str | None = None) -> list[Row]:
    """The questions of a source, in order. The fields of a row are `id`, `title`, `question`, `context`, `answers`
    (pairs of text and first character), `impossible` and `ambiguous`.

    Raises FileNotFoundError, or ValueError with file, article, paragraph and question for what is no SQuAD.
    """
    records = read_rows(str(source), tfds_dir) if str(source).startswith(PREFIX) else _read_json(Path(source))
    rows = []
    for place, fields in records:
        answers = _field(fields, "answers", (list, dict), place)
        if isinstance(answers, dict):  # TFDS: lists of texts and of starts
            texts, starts = (_field(answers, name, list, place) for name in ("text", "answer_start"))
            if len(texts) != len(starts):
                raise ValueError(f"{place}: {len(texts)} answers, but {len(starts)} answer_start")
            answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        pairs = [(_field(each, "text", str, place), _field(each, "answer_start", int, place)) for each in answers]
        question = {name: _field(fields, name, str, place) for name in ("id", "title", "question", "context")}
        marks = {
            "impossible": bool(fields.get("is_impossible", not pairs)),
            "ambiguous": bool(fields.get("answer_start_ambiguous", False)),
        }
        rows.append(Row(question | {"answers": pairs} | marks, place))
    if not rows:
        raise ValueError(f"{source}: no questions")
    return rows


def _read_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.name.endswith((".json", ".json.gz", ".json.xz")):
        raise ValueError(f"{path}: a SQuAD file is called .json, optionally .gz or .xz")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    text = "\n".join(line for _, line in numbered_lines(path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    for number, article in enumerate(_field(content, "data", list, str(path)), 1):
        place = f"{path}, article {number}"
        paragraphs = _field(article, "paragraphs", list, place)
        title = _field({"title": f"article {number}"} | article, "title", str, place)
        for count, paragraph in enumerate(paragraphs, 1):
            inner = f"{path}, article {title!r}, paragraph {count}"
            shared = {"title": title, "context": _field(paragraph, "context", str, inner)}
            for question in _field(paragraph, "qas", list, inner):
                name = str(_field(question, "id", (str, int), inner))
                yield f"{inner}, question {name}", question | shared | {"id": name}


def _field(record: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """The value of a field. Raises ValueError where there is none, or one of another type."""
    if not isinstance(record, dict):
        raise ValueError(f"{place}: {type(record).__name__} where an object with {name!r} is wanted")
    if name not in record:
        raise ValueError(f"{place}: no field {name!r}; it has {', '.join(map(repr, record))}")
    if not isinstance(record[name], kind):
        raise ValueError(f"{place}: field {name!r} is {type(record[name]).__name__}")
    return record[name]


# ---- windows ---------------------------------------------------------------------------------------------------------


class QuestionWindows(Features):
    """Questions with the windows of their contexts; an example is a window, those of a question follow each other.

    The target `span` [n, 2] is the first and last token of the first answer, found by its characters: the tokens that
    have one of them. The original finds the words between white space first and looks inside for the tokens of the
    answer (run_squad.py:386-420, 476-510); both differ only where an answer begins or ends inside of a token, and then
    the original takes the whole words. A window that does not hold the whole answer is kept, with the span (0, 0)
    (run_squad.py:409-420).

    Args:
        rows: of `read_questions`.
        max_length: tokens of a window with the question and the special tokens.
        stride: tokens between the starts of two windows.
        max_question_length: longer questions lose their end.

    Attributes:
        rows: the questions.
        question, start, begin: int32 [n] of each window the index of its question, the first of its tokens of the
            context, and that one's place in the window.
        offsets: of each question int32 [T, 2] characters of the tokens of its context.
        cut_questions: how many lost their end.
        loose_answers: how many first answers begin or end inside of a token.
        lost_answers: how many are longer than a window, or lie where no window holds all of them.

    Raises ValueError with the place of a context or an answer without any token.
    """

    def __init__(self, rows: list[Row], tokenizer: Tokenizer, max_length: int, stride: int, max_question_length: int):
        self.rows, self.cut_questions, self.loose_answers, self.lost_answers = rows, 0, 0, 0
        self.offsets: list[np.ndarray] = []
        contexts = {}  # many questions share theirs
        encodings, spans, places = [], [], []
        for number, row in enumerate(rows):
            text = row.fields["context"]
            if text not in contexts:
                contexts[text] = tokenizer.encode(text)
            context, question = contexts[text], tokenizer.encode(row.fields["question"]).ids
            if not len(context.ids):
                raise ValueError(f"{row.place}: the context has no tokens")
            self.cut_questions += len(question) > max_question_length
            self.offsets.append(context.offsets)
            question, answer = question[:max_question_length], self._answer_tokens(row, context.offsets)
            begin, held = len(question) + tokenizer.special_tokens(2) - 1, False
            for start, encoding in windows(tokenizer, question, context.ids, max_length, stride):
                inside = answer and start <= answer[0] and answer[1] - start < len(encoding.ids) - 1 - begin
                held = held or bool(inside)
                encodings.append(encoding)
                spans.append([token - start + begin for token in answer] if inside else [0, 0])
                places.append((number, start, begin))
            self.lost_answers += answer is not None and not held
        self.question, self.start, self.begin = np.array(places, np.int32).T
        super().__init__(encodings, {"span": np.array(spans, np.int32)}, tokenizer, max_length)

    def _answer_tokens(self, row: Row, offsets: np.ndarray) -> tuple[int, int] | None:
        if row.fields["impossible"]:
            return None
        text, start = row.fields["answers"][0]
        tokens = covering_tokens(offsets, start, start + len(text))
        if tokens is None:
            raise ValueError(f"{row.place}: the answer {text!r} has no tokens")
        self.loose_answers += self.text(row, offsets, *tokens) != text.strip()
        return tokens

    @staticmethod
    def text(row: Row, offsets: np.ndarray, first: int, last: int) -> str:
        """The characters of a span of tokens of the context, without white space around them.

        The original has no offsets, and finds the text of the pieces again in the words that they come from, with all
        of these where that fails (run_squad.py:927-1020); characters are exact for any tokenizer and any text.
        """
        return row.fields["context"][offsets[first, 0] : offsets[last, 1]].strip()

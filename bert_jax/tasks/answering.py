"""Question answering: the span of a text that answers a question, or none (Devlin et al. 2018, sections 4.2, 4.3)."""

import itertools
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used: together they take a second

from bert_jax.data.spans import MAX_ANSWER_LENGTH, STRIDE, most_context, span_scores
from bert_jax.data.squad import QuestionWindows, SquadFiles
from bert_jax.learners.multitask import Multitask
from bert_jax.tasks.texts import head_of
from bert_jax.text.tokenizer import Tokenizer

KINDS = {"has_answer": False, "no_answer": True}  # of questions, by whether the file marks them as impossible
N_BEST = 20  # answers to a question in a list of the best (run_squad.py:123-126)


class Answers(NamedTuple):
    """The best span of each question.

    texts: its characters.
    scores: float32 [Q] the sum of its two logits.
    null_odds: float32 [Q] how far the score of no answer is above it: the smallest, over the windows, of the sum of the
        two logits of [CLS] (run_squad.py:778-784).
    """

    texts: list[str]
    scores: np.ndarray
    null_odds: np.ndarray


@dataclass(frozen=True)
class Answering:
    """Questions with the texts that hold their answers, as SQuAD; an example is a window of a text."""

    data: SquadFiles
    """questions, with or without such that have no answer"""
    max_length: int = 384
    """tokens of a window with the question and special tokens"""
    stride: int = STRIDE
    """tokens between the starts of two windows of a text"""
    max_question_length: int = 64
    """tokens of a question; longer ones lose their end"""
    max_answer_length: int = MAX_ANSWER_LENGTH
    """tokens of a predicted answer"""
    no_answer_threshold: float = 0.0
    """where questions have no answer: predict none if its score is above the best span's by more than this"""
    name: str = ""
    """how the task is called in reports, such as SQuAD 1.1"""

    def __post_init__(self):
        for field in ("stride", "max_question_length", "max_answer_length"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} {getattr(self, field)}: must be at least 1")
        if self.max_length < self.max_question_length + 4:
            raise ValueError(
                f"max_length {self.max_length} leaves no room for a text beside a question of "
                f"{self.max_question_length} tokens (max_question_length), [CLS] and two [SEP]"
            )

    def tokenizer(self) -> None:
        return None

    def train(self, tokenizer: Tokenizer) -> QuestionWindows:
        return self._windows(self.data.train_rows, tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, QuestionWindows]:
        return {name: self._windows(rows, tokenizer) for name, rows in self.data.valid_rows.items()}

    def prepare(self, learner: Multitask) -> Multitask:
        head_of(learner, "span")
        return learner

    def baselines(self, train: QuestionWindows, evaluation: QuestionWindows) -> dict[str, float]:
        """Of never answering, where questions may have no answer, or else of the first word of each text; accuracy of
        "no answer" in every window."""
        texts = [row.fields["context"].split()[0] for row in evaluation.rows]
        found = _worth(evaluation, [""] * len(texts) if self.data.unanswerable else texts)
        found |= {"accuracy": evaluation.targets["span"][:, 1] == 0}
        return {f"span/{name}": float(values.mean()) for name, values in found.items()}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Of what `score` adds to the metrics of the head, for every held-out set: nothing about a kind of questions of
        which one of them has none."""
        names = ("exact_match", "f1")
        if self.data.unanswerable:
            found = [{row.fields["impossible"] for row in rows} for rows in self.data.valid_rows.values()]
            kinds = [kind for kind, impossible in KINDS.items() if all(impossible in of_set for of_set in found)]
            best = [f"best_{name}{end}" for name in names for end in ("", "_threshold")]
            names = (*names, *(f"{kind}_{name}" for kind in kinds for name in names), *best)
        return tuple(f"span/{name}" for name in names)

    def score(self, predictions: dict[str, np.ndarray], evaluation: QuestionWindows) -> dict[str, float]:
        """Exact match and F1 over the questions, as shares of 1.

        With unanswerable questions also those of the questions that have an answer, and of those that have none, where
        there are such; and the best that any threshold reaches on these very questions, with that threshold.
        """
        answers = self.answers(predictions, evaluation)
        scores = _worth(evaluation, self._texts(answers))
        found = {name: values.mean() for name, values in scores.items()}
        if self.data.unanswerable:
            has = np.array([not row.fields["impossible"] for row in evaluation.rows])
            for kind, impossible in KINDS.items():
                chosen = has != impossible
                found |= {f"{kind}_{name}": values[chosen].mean() for name, values in scores.items() if chosen.any()}
            for name, values in _worth(evaluation, answers.texts).items():
                best, threshold = best_threshold(values, answers.null_odds, has)
                found |= {f"best_{name}": best, f"best_{name}_threshold": threshold}
        return {f"span/{name}": float(value) for name, value in found.items()}

    def rows(self, predictions: dict[str, np.ndarray], evaluation: QuestionWindows) -> list[dict]:
        """One row per question for the predictions file: its id, an answer that was wanted, the one predicted, with its
        score and what it is worth; where questions may have no answer also the best span, and by how much no answer
        scores above it."""
        answers, table = self.answers(predictions, evaluation), []
        texts = self._texts(answers)
        worth = _worth(evaluation, texts)
        for i, (row, text) in enumerate(zip(evaluation.rows, texts, strict=True)):
            label = row.fields["answers"][0][0] if row.fields["answers"] else ""
            line = {"id": row.fields["id"], "label": label, "prediction": text, "score": float(answers.scores[i])}
            line |= {name: float(values[i]) for name, values in worth.items()}
            if self.data.unanswerable:
                line |= {"best_span": answers.texts[i], "null_odds": float(answers.null_odds[i])}
            table.append(line)
        return table

    def preview(self, train: QuestionWindows, tokenizer: Tokenizer) -> list[str]:
        """What is trained on: windows as the model reads them, how many hold an answer, what was cut or left out."""
        spans, count = train.targets["span"], len(train.rows)
        without = sum(row.fields["impossible"] for row in train.rows)
        return [
            *train.preview(tokenizer),
            f"{count:,} questions ({without:,} without an answer) in {len(train):,} windows, "
            f"{np.mean(spans[:, 1] > 0):.1%} of which hold the answer",
            f"{train.cut_questions:,} questions were cut to {self.max_question_length} tokens; {train.loose_answers:,} "
            "answers begin or end inside of a token, which is then taken whole",
            *([f"{train.lost_answers:,} answers are in no window as a whole"] if train.lost_answers else []),
            *self.data.notes(),
        ]

    def answers(self, predictions: dict[str, np.ndarray], evaluation: QuestionWindows) -> Answers:
        """The best span of each question over all its windows, of at most `max_answer_length` tokens."""
        texts, scores, null_odds = [], [], []
        for number, (*_, null, table) in enumerate(self._read(predictions, evaluation)):
            first, more = divmod(int(table.argmax()), table.shape[1])
            texts.append(evaluation.text(evaluation.rows[number], evaluation.offsets[number], first, first + more))
            scores.append(table[first, more])
            null_odds.append(sum(null) - scores[-1])
        return Answers(texts, np.array(scores, np.float32), np.array(null_odds, np.float32))

    def n_best(
        self, predictions: dict[str, np.ndarray], evaluation: QuestionWindows, count: int = N_BEST
    ) -> dict[str, list[dict]]:
        """By the id of each question its best different texts, the best first: `text`, `probability`, `start_logit` and
        `end_logit` of each, the probability being its share in this list (run_squad.py:830-898).

        Where questions may have no answer "" is one of the texts, and comes after so many if it is not as good. No span
        is left out, as in `answers`.
        """
        found = {}
        for number, (starts, logits, null, table) in enumerate(self._read(predictions, evaluation)):
            row, offsets, best = evaluation.rows[number], evaluation.offsets[number], {}
            owner = most_context(starts, np.array([len(window) for window in logits]))
            for place in np.argsort(-table, axis=None, kind="stable"):
                first, more = divmod(int(place), table.shape[1])
                if len(best) == count or table[first, more] == -np.inf:
                    break
                window, begin = logits[owner[first]], first - starts[owner[first]]
                text = evaluation.text(row, offsets, first, first + more)
                best.setdefault(text, (window[begin, 0], window[begin + more, 1]))
            if self.data.unanswerable:
                best = dict(sorted((best | {"": null}).items(), key=lambda item: -sum(item[1])))
                if len(best) > count and next(reversed(best)):  # the one too many is not ""
                    best.popitem()
            shares = scipy.special.softmax([sum(pair) for pair in best.values()])
            found[row.fields["id"]] = [
                {"text": text, "probability": float(share), "start_logit": float(start), "end_logit": float(end)}
                for share, (text, (start, end)) in zip(shares, best.items(), strict=True)
            ]
        return found

    def _read(self, predictions: dict[str, np.ndarray], evaluation: QuestionWindows) -> Iterator[tuple]:
        """Of each question: the first token of each of its windows, and the logits of the tokens of its context there;
        the two logits of no answer, of the window where their sum is lowest; the table of `span_scores`."""
        every = predictions["span/logits"].astype(np.float32)
        bounds = np.searchsorted(evaluation.question, np.arange(len(evaluation.rows) + 1))
        for begin, end in itertools.pairwise(bounds):
            starts = evaluation.start[begin:end]
            own = [every[i, evaluation.begin[i] : evaluation.lengths[i] - 1] for i in range(begin, end)]
            null = every[begin + every[begin:end, 0].sum(axis=1).argmin(), 0]
            yield starts, own, tuple(null), span_scores(starts, own, self.max_answer_length, max_context=True)

    def _texts(self, answers: Answers) -> list[str]:
        if not self.data.unanswerable:
            return answers.texts
        odds = answers.null_odds.tolist()
        return ["" if odd > self.no_answer_threshold else text for text, odd in zip(answers.texts, odds, strict=True)]

    def _windows(self, rows: list, tokenizer: Tokenizer) -> QuestionWindows:
        return QuestionWindows(rows, tokenizer, self.max_length, self.stride, self.max_question_length)


# ---- the rules of the official evaluation script ---------------------------------------------------------------------


def normalised(text: str) -> str:
    """In lower case, without ASCII punctuation, without the words a, an, the, and with single spaces."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(found: str, wanted: str) -> float:
    """1 where the normalised texts are equal, else 0."""
    return float(normalised(found) == normalised(wanted))


def f1(found: str, wanted: str) -> float:
    """The harmonic mean of precision and recall over the words of the normalised texts. An answer without words is
    right for one without words only."""
    a, b = normalised(found).split(), normalised(wanted).split()
    if not a or not b:
        return float(a == b)
    return 2 * (Counter(a) & Counter(b)).total() / (len(a) + len(b))


def best_over(measure: Callable[[str, str], float], found: str, wanted: Sequence[str]) -> float:
    """The best that an answer is worth beside any of those wanted. Those that normalise to nothing do not count; if
    none is left, the question has no answer, and "" is wanted."""
    return max(measure(found, answer) for answer in [text for text in wanted if normalised(text)] or [""])


def best_threshold(values: np.ndarray, null_odds: np.ndarray, has_answer: np.ndarray) -> tuple[float, float]:
    """The highest mean value that a threshold for "no answer" reaches, and the lowest such threshold.

    Args:
        values: [Q] what the answer is worth that is given where the odds are not above the threshold.
        null_odds: [Q]; above the threshold there is no answer, which is worth 1 where the question has none.
        has_answer: bool [Q].
    """
    order = np.argsort(null_odds, kind="stable")
    odds = np.asarray(null_odds, np.float64)[order]
    gains = np.cumsum((values - ~has_answer)[order])
    # Thresholds: one below all odds, where no question is answered, then each of the odds. Equal ones go together.
    totals = np.concatenate([[0.0], np.where(np.append(odds[1:] > odds[:-1], True), gains, -np.inf)])
    best = int(totals.argmax())
    return float((np.sum(~has_answer) + totals[best]) / len(values)), float([odds[0] - 1.0, *odds][best])


def _worth(evaluation: QuestionWindows, texts: list[str]) -> dict[str, np.ndarray]:
    """Exact match and F1 of an answer to each question."""
    wanted = [[text for text, _ in row.fields["answers"]] for row in evaluation.rows]
    return {
        name: np.array([best_over(measure, text, each) for text, each in zip(texts, wanted, strict=True)])
        for name, measure in (("exact_match", exact_match), ("f1", f1))
    }

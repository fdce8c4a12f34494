"""Multiple choice: which of several continuations fits a text? (Devlin et al. 2018, section 4.4)"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bert_jax.data.features import Features
from bert_jax.data.spans import joined
from bert_jax.data.tables import Row, Tables, usable
from bert_jax.learners.multitask import Multitask
from bert_jax.tasks.texts import head_of, shares
from bert_jax.text.tokenizer import Encoding, Tokenizer


@dataclass(frozen=True)
class MultipleChoice:
    """Questions with choices: a row `[CLS] context [SEP] continuation [SEP]` for each choice, one score of each row.

    Questions may have different numbers of choices; those that have fewer than others get rows of probability 0.
    """

    data: Tables
    """labelled rows; their text columns are those of the choices and of `opening_column`; all others are the context"""
    choice_columns: tuple[str, ...] = ("choices",)
    """fields of the choices in order, the last of which may be empty; or one field that holds a list"""
    opening_column: str = ""
    """field that every continuation begins with, before the choice, such as SWAG's sent2 or the question of RACE"""
    answer_keys: tuple[str, ...] = ("ABCDEFGHIJ", "123456789")
    """how the label names the first choice, the second ...: a character each; the ways of doing so may be mixed"""
    max_length: int = 128
    """tokens of a row with special tokens; a longer one loses the end of its context, and then the beginning of its
    continuation: what tells the choices apart stays"""
    name: str = ""
    """how the task is called in reports, such as SWAG"""

    def __post_init__(self):
        wanted = (*self.choice_columns, *([self.opening_column] if self.opening_column else []))
        if missing := [column for column in wanted if column not in self.data.text_columns]:
            raise ValueError(f"{missing[0]!r} is none of the text_columns {', '.join(self.data.text_columns)}")
        if not self.choice_columns or not self._context:
            raise ValueError(f"text_columns {self.data.text_columns} must hold a context and choices")
        places = {(key, place) for keys in self.answer_keys for place, key in enumerate(keys)}
        if twice := sorted(key for key, count in Counter(key for key, _ in places).items() if count > 1):
            raise ValueError(f"answer_keys {self.answer_keys}: {twice[0]!r} names two choices")
        if self.max_length < 4:
            raise ValueError(f"max_length {self.max_length}: [CLS], two [SEP] and one token are needed")

    def tokenizer(self) -> None:
        return None

    def train(self, tokenizer: Tokenizer) -> Features:
        return self._features(self.data.train_rows, tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, Features]:
        return {name: self._features(rows, tokenizer) for name, rows in self.data.valid_rows.items()}

    @cached_property
    def num_choices(self) -> int:
        """The most that any question has, those of the held-out rows included."""
        rows = [*self.data.all_train_rows, *(row for rows in self.data.valid_rows.values() for row in rows)]
        return max(len(self.choices(row)) for row in usable(rows, self._bad, self.data.skip_bad_rows)[0])

    def prepare(self, learner: Multitask) -> Multitask:
        """Gives the head its number of choices. Raises ValueError where the head says another one."""
        head = head_of(learner, "choice")
        if head.num_choices not in (0, self.num_choices):
            raise ValueError(f"the head has num_choices {head.num_choices}, but {self.data.train} {self.num_choices}")
        if self.num_choices > len(self.answer_keys[0]):
            raise ValueError(f"there are {self.num_choices} choices, but answer_keys name {len(self.answer_keys[0])}")
        head = replace(head, num_choices=self.num_choices)
        return replace(learner, objectives=dict(learner.objectives) | {"choice": head})

    def baselines(self, train: Features, evaluation: Features) -> dict[str, float]:
        """`choice/accuracy` of the place at which most answers of the training rows are."""
        most = np.bincount(self._labels(train)).argmax()
        return {"choice/accuracy": float((self._labels(evaluation) == most).mean())}

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ()

    def score(self, predictions: dict[str, np.ndarray], evaluation: Features) -> dict[str, float]:
        """Nothing: accuracy is a mean over examples, which the head has."""
        return {}

    def rows(self, predictions: dict[str, np.ndarray], evaluation: Features) -> list[dict]:
        """One row per question for the predictions file: label, prediction and the probability of each choice."""
        keys, table = self.answer_keys[0][: self.num_choices], []
        probabilities = predictions["choice/probabilities"].reshape(-1, self.num_choices)
        for label, row in zip(self._labels(evaluation), probabilities, strict=True):
            table.append(
                {"label": keys[label], "prediction": keys[row.argmax()]}
                | {f"p({key})": round(float(p), 6) for key, p in zip(keys, row, strict=True)}
            )
        return table

    def preview(self, train: Features, tokenizer: Tokenizer) -> list[str]:
        """What is trained on: questions as the model reads them, where the answers are, what was left out."""
        counts = np.bincount(self._labels(train), minlength=self.num_choices)
        full = train.targets["choice_mask"].reshape(-1, self.num_choices).all(axis=1).mean()
        keys = tuple(self.answer_keys[0])
        return [
            *train.preview(tokenizer),
            f"{self.num_choices} choices, which {full:.1%} of the questions have; answers are "
            f"{shares(keys, counts, len(train))}",
            *self.data.notes(self._bad),
        ]

    def choices(self, row: Row) -> list[str]:
        """The choices of a row; empty ones at the end are none."""
        values = [row.fields[column] for column in self.choice_columns]
        found = [choice for value in values for choice in (value if isinstance(value, list) else [value])]
        while found and not found[-1].strip():
            found.pop()
        return found

    @property
    def _context(self) -> tuple[str, ...]:
        others = (*self.choice_columns, self.opening_column)
        return tuple(column for column in self.data.text_columns if column not in others)

    def _labels(self, features: Features) -> np.ndarray:
        return features.targets["label"][:: self.num_choices]

    def _place(self, row: Row) -> int:
        """Which choice the label names, from 0; -1 for none."""
        label = row.fields[self.data.label_column].strip()
        return max(keys.find(label) if len(label) == 1 else -1 for keys in self.answer_keys)

    def _bad(self, row: Row) -> str | None:
        texts = (*self._context, *([self.opening_column] if self.opening_column else []), self.data.label_column)
        if lists := [field for field in texts if not isinstance(row.fields[field], str)]:
            return f"field {lists[0]!r} is a list, a text is wanted"
        if reason := self.data.empty_field(row, (*self._context, self.data.label_column)):
            return reason
        values = {field: row.fields[field] for field in self.choice_columns}
        if nested := [field for field, value in values.items() if any(isinstance(choice, list) for choice in value)]:
            return f"field {nested[0]!r} is a list of lists, one of texts is wanted"
        choices, place = self.choices(row), self._place(row)
        if empty := [number for number, choice in enumerate(choices, 1) if not choice.strip()]:
            return f"choice {empty[0]} of {len(choices)} is empty"
        if len(choices) < 2:
            return f"it has {len(choices)} choices, two are needed"
        if not 0 <= place < len(choices):
            return f"label {row.fields[self.data.label_column]!r} names none of the {len(choices)} choices"
        return None

    def _features(self, rows: list[Row], tokenizer: Tokenizer) -> Features:
        rows, _ = usable(rows, self._bad, self.data.skip_bad_rows)
        filler = joined(tokenizer, np.zeros(0, np.int32))  # as short as can be, and with a token to attend to
        encodings, mask, cut = [], [], 0
        for row in rows:
            context = tokenizer.encode(" ".join(row.fields[column] for column in self._context)).ids
            opening, choices = row.fields[self.opening_column] if self.opening_column else "", self.choices(row)
            for choice in choices:
                continuation = tokenizer.encode(f"{opening} {choice}" if opening else choice).ids
                encodings.append(self._row(tokenizer, context, continuation))
                cut += len(context) + len(continuation) + tokenizer.special_tokens(2) > self.max_length
            more = self.num_choices - len(choices)
            encodings += [filler] * more
            mask += [True] * len(choices) + [False] * more
        labels = np.repeat([self._place(row) for row in rows], self.num_choices).astype(np.int32)
        targets = {"label": labels, "choice_mask": np.array(mask)}
        return Features(encodings, targets, tokenizer, self.max_length, self.num_choices, cut)

    def _row(self, tokenizer: Tokenizer, context: np.ndarray, continuation: np.ndarray) -> Encoding:
        room = self.max_length - tokenizer.special_tokens(2)
        continuation = continuation[max(0, len(continuation) - room) :]
        return joined(tokenizer, context[: room - len(continuation)], continuation)

"""Any number of labels for each text or pair of texts, such as the topics of an article."""

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bert_jax.data.features import Features
from bert_jax.data.tables import Row, Tables, usable
from bert_jax.learners.multitask import Multitask
from bert_jax.tasks.metrics import LABEL_METRICS
from bert_jax.tasks.texts import bad_text, beginning, check_text_columns, features_of, in_order, shares, with_classes
from bert_jax.text.tokenizer import Tokenizer

THRESHOLD = 0.5  # a label is predicted from this probability on


@dataclass(frozen=True)
class MultiLabels:
    """Texts with any number of labels: a head `multilabel` gives each a probability of its own. The label field holds a
    list (JSON Lines, TFDS, or a JSON list as text), or labels joined by the separator; empty, it is no label."""

    data: Tables
    """rows with labels, and one text column, or two for pairs"""
    max_length: int = 128
    """tokens of a row with special tokens; longer texts are cut at the end"""
    separator: str = "|"
    """between labels that are one text"""
    name: str = ""
    """how the task is called in reports"""

    def __post_init__(self):
        check_text_columns(self.data)
        if not self.separator:
            raise ValueError("separator is empty: give the character between two labels")

    def tokenizer(self) -> None:
        return None

    def train(self, tokenizer: Tokenizer) -> Features:
        return self._features(self.data.train_rows, tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, Features]:
        return {name: self._features(rows, tokenizer) for name, rows in self.data.valid_rows.items()}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """All labels of the training rows in order: whole numbers by value, then the others alphabetically."""
        rows, _ = usable(self.data.label_rows, self._unreadable, self.data.skip_bad_rows)
        return in_order(label for row in rows for label in self._labels(row))

    def prepare(self, learner: Multitask) -> Multitask:
        """Gives the head its labels. Raises ValueError where the head says another number of them."""
        if len(self.classes) < 2:
            found = f"only the label {self.classes[0]!r}, which is a classification" if self.classes else "no label"
            raise ValueError(f"{self.data.train}: field {self.data.label_column!r} has {found}; two are needed")
        return with_classes(learner, "multilabel", self.classes, self.data)

    def baselines(self, train: Features, evaluation: Features) -> dict[str, float]:
        """`multilabel/loss` of always answering with each label's share of the training rows; one row with it and one
        without are added, so that no share is 0 or 1."""
        targets = evaluation.targets["targets"]
        share = (train.targets["targets"].sum(axis=0, dtype=np.float64) + 1) / (len(train) + 2)
        return {"multilabel/loss": float(-np.where(targets > 0, np.log(share), np.log(1 - share)).mean())}

    metric_names = tuple(f"multilabel/{name}" for name in LABEL_METRICS)

    def score(self, predictions: dict[str, np.ndarray], evaluation: Features) -> dict[str, float]:
        """F1 over all labels of all examples together, and its mean over the labels."""
        wanted, found = evaluation.targets["targets"] > 0, predictions["multilabel/probabilities"] >= THRESHOLD
        return {f"multilabel/{name}": float(metric(wanted, found)) for name, metric in LABEL_METRICS.items()}

    def rows(self, predictions: dict[str, np.ndarray], evaluation: Features) -> list[dict]:
        """One row per example for the predictions file: labels, predicted labels, the probability of each label."""
        table = []
        for wanted, row in zip(evaluation.targets["targets"], predictions["multilabel/probabilities"], strict=True):
            table.append(
                {"label": self._joined(wanted > 0), "prediction": self._joined(row >= THRESHOLD)}
                | {f"p({name})": round(float(p), 6) for name, p in zip(self.classes, row, strict=True)}
            )
        return table

    def preview(self, train: Features, tokenizer: Tokenizer) -> list[str]:
        """What is trained on: examples as the model reads them, the shares of rows with each label, what was left
        out."""
        targets = train.targets["targets"]
        counts, none = targets.sum(axis=0), int((targets.sum(axis=1) == 0).sum())
        return [
            *train.preview(tokenizer),
            f"{len(self.classes)} labels: {shares(self.classes, counts, len(targets))}",
            f"{counts.sum() / len(targets):.2f} labels a row; {none:,} rows have none",
            *self.data.notes(self._bad),
        ]

    def _joined(self, chosen: np.ndarray) -> str:
        return self.separator.join(name for name, own in zip(self.classes, chosen, strict=True) if own)

    def _labels(self, row: Row) -> list[str]:
        """The labels of a row. Raises ValueError for what begins as a JSON list and is none, or holds lists."""
        value = row.fields[self.data.label_column]
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = json.loads(value)
        if not all(isinstance(label, str | int | float) for label in value):
            raise ValueError("the list holds something else")
        labels = value.split(self.separator) if isinstance(value, str) else value
        return [str(label).strip() for label in labels if str(label).strip()]

    def _unreadable(self, row: Row) -> str | None:
        try:
            self._labels(row)
        except ValueError as error:
            column = self.data.label_column
            return f"field {column!r} is {row.fields[column]!r}, which is no JSON list of labels: {error}"
        return bad_text(self.data, row)

    def _bad(self, row: Row) -> str | None:
        if reason := self._unreadable(row):
            return reason
        unknown = [label for label in self._labels(row) if label not in self._numbers]
        of = f"of {self.data.train}: {beginning(self.classes)}"
        return f"label {unknown[0]!r} is none of those {of}" if unknown else None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    def _features(self, rows: list[Row], tokenizer: Tokenizer) -> Features:
        def targets(rows: list[Row]) -> dict[str, np.ndarray]:
            found = np.zeros((len(rows), len(self.classes)), np.float32)
            for i, row in enumerate(rows):
                found[i, [self._numbers[label] for label in self._labels(row)]] = 1
            return {"targets": found}

        return features_of(self.data, rows, self._bad, targets, tokenizer, self.max_length)

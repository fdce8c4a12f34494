"""Classification of texts or pairs of texts."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from bert_jax.data.features import Features
from bert_jax.data.tables import Row, Tables, usable
from bert_jax.learners.multitask import Multitask
from bert_jax.tasks.metrics import CLASS_METRICS
from bert_jax.tasks.texts import bad_text, beginning, check_text_columns, features_of, in_order, shares, with_classes
from bert_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Classification:
    """Texts of one class each; the classes are the labels of the training rows, sorted."""

    data: Tables
    """labelled rows, with one text column, or two for pairs"""
    max_length: int = 128
    """tokens of a row with special tokens; longer texts are cut at the end"""
    metrics: tuple[Literal["f1", "macro_f1", "matthews"], ...] = ()
    """besides loss and accuracy; f1 is that of the second class"""
    name: str = ""
    """how the task is called in reports, such as SST-2"""
    labels: tuple[str, ...] = ()
    """the classes in order, where they are not to be found in the training rows; another label is then a bad row"""

    def __post_init__(self):
        check_text_columns(self.data)

    def tokenizer(self) -> None:
        return None

    def train(self, tokenizer: Tokenizer) -> Features:
        return self._features(self.data.train_rows, tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, Features]:
        return {name: self._features(rows, tokenizer) for name, rows in self.data.valid_rows.items()}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """`labels`, or those of the training rows in order: whole numbers by value, then the others alphabetically."""
        if self.labels:
            return self.labels
        column = self.data.label_column
        rows, _ = usable(self.data.label_rows, lambda row: bad_text(self.data, row, column), self.data.skip_bad_rows)
        return in_order(row.fields[column] for row in rows)

    def prepare(self, learner: Multitask) -> Multitask:
        """Gives the head its number of classes. Raises ValueError where the head says another one."""
        source, number = self.data.train, len(self.classes)
        if number < 2:
            raise ValueError(f"{source}: every row has the label {self.classes[0]!r}; two classes are needed")
        if {"f1", "matthews"} & set(self.metrics) and number != 2:
            raise ValueError(f"f1 and matthews are of two classes, but {source} has {number}: macro_f1?")
        return with_classes(learner, "classify", self.classes, self.data)

    def baselines(self, train: Features, evaluation: Features) -> dict[str, float]:
        """`classify/accuracy` of always answering the most frequent class of the training rows."""
        most = np.bincount(train.targets["label"]).argmax()
        return {"classify/accuracy": float((evaluation.targets["label"] == most).mean())}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Of what `score` adds to the metrics of the head."""
        return tuple(f"classify/{name}" for name in self.metrics)

    def score(self, predictions: dict[str, np.ndarray], evaluation: Features) -> dict[str, float]:
        """The metrics that are no means over examples, from the predictions of a whole held-out set."""
        found = predictions["classify/probabilities"].argmax(axis=1)
        labels = evaluation.targets["label"]
        return {f"classify/{name}": float(CLASS_METRICS[name](labels, found)) for name in self.metrics}

    def rows(self, predictions: dict[str, np.ndarray], evaluation: Features) -> list[dict]:
        """One row per example for the predictions file: label, prediction and the probability of each class."""
        table = []
        for label, row in zip(evaluation.targets["label"], predictions["classify/probabilities"], strict=True):
            table.append(
                {"label": self.classes[label], "prediction": self.classes[row.argmax()]}
                | {f"p({name})": round(float(p), 6) for name, p in zip(self.classes, row, strict=True)}
            )
        return table

    def preview(self, train: Features, tokenizer: Tokenizer) -> list[str]:
        """What is trained on: examples as the model reads them, the classes and their shares, what was left out."""
        counts = np.bincount(train.targets["label"], minlength=len(self.classes))
        return [
            *train.preview(tokenizer),
            f"{len(self.classes)} classes: {shares(self.classes, counts, len(train))}",
            *self.data.notes(self._bad),
        ]

    def _bad(self, row: Row) -> str | None:
        column = self.data.label_column
        if reason := bad_text(self.data, row, column):
            return reason
        if row.fields[column] in self._numbers:
            return None
        of = "" if self.labels else f" of {self.data.train}"
        return f"label {row.fields[column]!r} is none of the classes{of}: {beginning(self.classes)}"

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    def _features(self, rows: list[Row], tokenizer: Tokenizer) -> Features:
        def targets(rows: list[Row]) -> dict[str, np.ndarray]:
            return {"label": np.array([self._numbers[row.fields[self.data.label_column]] for row in rows], np.int32)}

        return features_of(self.data, rows, self._bad, targets, tokenizer, self.max_length)

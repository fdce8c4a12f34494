"""Classification of texts or pairs of texts."""

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from bert_jax.data.features import Features, encode_texts
from bert_jax.data.tables import Row, Tables, usable
from bert_jax.learners.multitask import Multitask
from bert_jax.tasks.metrics import CLASS_METRICS
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

    def __post_init__(self):
        if not 1 <= len(self.data.text_columns) <= 2:
            raise ValueError(f"text_columns {self.data.text_columns}: one field, or two for a pair")

    def tokenizer(self) -> None:
        return None

    def train(self, tokenizer: Tokenizer) -> Features:
        return self._features(self.data.train_rows, tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, Features]:
        return {name: self._features(rows, tokenizer) for name, rows in self.data.valid_rows.items()}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels of the training rows in order: whole numbers by value, then the others alphabetically."""
        rows, _ = usable(self.data.all_train_rows, self._empty, self.data.skip_bad_rows)
        labels = {row.fields[self.data.label_column] for row in rows}
        number = {label: int(label) if re.fullmatch("-?[0-9]+", label) else math.inf for label in labels}
        return tuple(sorted(labels, key=lambda label: (number[label], label)))

    def prepare(self, learner: Multitask) -> Multitask:
        """Gives the head its number of classes. Raises ValueError where the head says another one."""
        head, source = learner.objectives["classify"], self.data.train
        if len(self.classes) < 2:
            raise ValueError(f"{source}: every row has the label {self.classes[0]!r}; two classes are needed")
        if head.num_classes not in (0, len(self.classes)):
            raise ValueError(
                f"the head has num_classes {head.num_classes}, but {source} has the {len(self.classes)} "
                f"labels {', '.join(self.classes)} in field {self.data.label_column!r}"
            )
        if {"f1", "matthews"} & set(self.metrics) and len(self.classes) != 2:
            raise ValueError(f"f1 and matthews are of two classes, but {source} has {len(self.classes)}: macro_f1?")
        head = replace(head, num_classes=len(self.classes), labels=self.classes)
        return replace(learner, objectives=dict(learner.objectives) | {"classify": head})

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
        order = np.argsort(-counts, kind="stable")
        shares = [f"{self.classes[i]} {counts[i] / counts.sum():.1%}" for i in order[:20]]
        more = f", and {len(order) - 20} more" if len(order) > 20 else ""
        return [
            *train.preview(tokenizer),
            f"{len(self.classes)} classes: {', '.join(shares)}{more}",
            *self.data.notes(self._empty),
        ]

    def _empty(self, row: Row) -> str | None:
        return self.data.empty_field(row)

    def _bad(self, row: Row) -> str | None:
        label = row.fields[self.data.label_column]
        if label not in self._numbers:
            return f"label {label!r} is none of the classes of {self.data.train}: {', '.join(self.classes)}"
        return self._empty(row)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    def _features(self, rows: list[Row], tokenizer: Tokenizer) -> Features:
        rows, _ = usable(rows, self._bad, self.data.skip_bad_rows)
        texts = [tuple(row.fields[column] for column in self.data.text_columns) for row in rows]
        labels = np.array([self._numbers[row.fields[self.data.label_column]] for row in rows], np.int32)
        encodings, cut = encode_texts(texts, tokenizer, self.max_length)
        return Features(encodings, {"label": labels}, tokenizer, self.max_length, truncated=cut)

"""Classification of texts or pairs of texts from labelled files."""

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bert_jax.data.features import Features
from bert_jax.data.tables import Row, read_table
from bert_jax.learners.multitask import Multitask
from bert_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Classification:
    """Labelled rows of TSV, CSV or JSON Lines files; the classes are the labels of the training file, sorted."""

    train_file: Path
    """training rows: .tsv, .csv or .jsonl, also .gz or .xz"""
    valid_file: Path
    """held-out rows, for evaluation during training and for the predictions file"""
    text_columns: tuple[str, ...] = ("text",)
    """one field, or two for pairs"""
    label_column: str = "label"
    max_length: int = 128
    """tokens of a row with special tokens; longer texts are cut at the end"""
    train_limit: int = 0
    """use this many training rows, drawn evenly at random; 0 uses all"""
    train_limit_seed: int = 0
    """of that draw"""

    def __post_init__(self):
        if not 1 <= len(self.text_columns) <= 2:
            raise ValueError(f"text_columns {self.text_columns}: one field, or two for a pair")
        if self.train_limit < 0:
            raise ValueError(f"train_limit {self.train_limit}: must be at least 1, or 0 for all")

    def tokenizer(self) -> None:
        return None

    def train(self, tokenizer: Tokenizer) -> Features:
        rows = self._train_rows
        if self.train_limit:
            if self.train_limit > len(rows):
                raise ValueError(f"train_limit {self.train_limit}: {self.train_file} has only {len(rows)} rows")
            order = np.random.default_rng(self.train_limit_seed).permutation(len(rows))[: self.train_limit]
            rows = [rows[i] for i in order]
        return self._features(rows, tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, Features]:
        return {"valid": self._features(self._rows(self.valid_file), tokenizer)}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels of the training file in order: whole numbers by value, then the others alphabetically."""
        labels = {row.fields[self.label_column] for row in self._train_rows}
        number = {label: int(label) if re.fullmatch("-?[0-9]+", label) else math.inf for label in labels}
        return tuple(sorted(labels, key=lambda label: (number[label], label)))

    def prepare(self, learner: Multitask) -> Multitask:
        """Gives the head its number of classes. Raises ValueError where the head says another one."""
        head = learner.objectives["classify"]
        if len(self.classes) < 2:
            raise ValueError(f"{self.train_file}: every row has the label {self.classes[0]!r}; two classes are needed")
        if head.num_classes not in (0, len(self.classes)):
            raise ValueError(
                f"the head has num_classes {head.num_classes}, but {self.train_file} has the {len(self.classes)} "
                f"labels {', '.join(self.classes)} in field {self.label_column!r}"
            )
        head = replace(head, num_classes=len(self.classes), labels=self.classes)
        return replace(learner, objectives=dict(learner.objectives) | {"classify": head})

    def baselines(self, train: Features, evaluation: Features) -> dict[str, float]:
        """`classify/accuracy` of always answering the most frequent class of the training rows."""
        most = np.bincount(train.labels).argmax()
        return {"classify/accuracy": float((evaluation.labels == most).mean())}

    def rows(self, predictions: dict[str, np.ndarray], evaluation: Features) -> list[dict]:
        """One row per example for the predictions file: label, prediction and the probability of each class."""
        table = []
        for label, row in zip(evaluation.labels, predictions["classify/probabilities"], strict=True):
            table.append(
                {"label": self.classes[label], "prediction": self.classes[row.argmax()]}
                | {f"p({name})": round(float(p), 6) for name, p in zip(self.classes, row, strict=True)}
            )
        return table

    @cached_property
    def _train_rows(self) -> list[Row]:
        return self._rows(self.train_file)

    def _rows(self, path: Path) -> list[Row]:
        return read_table(Path(path), (*self.text_columns, self.label_column))

    def _features(self, rows: list[Row], tokenizer: Tokenizer) -> Features:
        number = {name: i for i, name in enumerate(self.classes)}
        for row in rows:
            if row.fields[self.label_column] not in number:
                raise ValueError(
                    f"{row.place}: label {row.fields[self.label_column]!r} is none of the classes of "
                    f"{self.train_file}: {', '.join(self.classes)}"
                )
        texts = [tuple(row.fields[column] for column in self.text_columns) for row in rows]
        labels = [number[row.fields[self.label_column]] for row in rows]
        return Features(texts, labels, tokenizer, self.max_length)

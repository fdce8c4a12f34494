"""A number for each text or pair of texts, such as the similarity of two sentences (STS-B)."""

from dataclasses import dataclass

import numpy as np

from bert_jax.data.features import Features
from bert_jax.data.tables import Row, Tables
from bert_jax.learners.multitask import Multitask
from bert_jax.tasks.metrics import pearson, spearman
from bert_jax.tasks.texts import bad_text, check_text_columns, features_of, head_of
from bert_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Regression:
    """Texts with a score each: a head `regress` predicts it, and is judged by its correlation with it."""

    data: Tables
    """rows with a number as label, and one text column, or two for pairs"""
    max_length: int = 128
    """tokens of a row with special tokens; longer texts are cut at the end"""
    name: str = ""
    """how the task is called in reports, such as STS-B"""

    def __post_init__(self):
        check_text_columns(self.data)

    def tokenizer(self) -> None:
        return None

    def train(self, tokenizer: Tokenizer) -> Features:
        return self._features(self.data.train_rows, tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, Features]:
        return {name: self._features(rows, tokenizer) for name, rows in self.data.valid_rows.items()}

    def prepare(self, learner: Multitask) -> Multitask:
        head_of(learner, "regress")
        return learner

    def baselines(self, train: Features, evaluation: Features) -> dict[str, float]:
        """`regress/loss`, the mean squared error, of always answering the mean score of the training rows."""
        errors = evaluation.targets["target"] - train.targets["target"].mean(dtype=np.float64)
        return {"regress/loss": float(np.square(errors).mean())}

    metric_names = ("regress/pearson", "regress/spearman")

    def score(self, predictions: dict[str, np.ndarray], evaluation: Features) -> dict[str, float]:
        """Linear and rank correlation of the predictions with the scores of a whole held-out set."""
        targets, found = evaluation.targets["target"], predictions["regress/score"]
        return {"regress/pearson": pearson(targets, found), "regress/spearman": spearman(targets, found)}

    def rows(self, predictions: dict[str, np.ndarray], evaluation: Features) -> list[dict]:
        """One row per example for the predictions file."""
        pairs = zip(evaluation.targets["target"], predictions["regress/score"], strict=True)
        return [{"label": str(target), "prediction": round(float(found), 6)} for target, found in pairs]

    def preview(self, train: Features, tokenizer: Tokenizer) -> list[str]:
        """What is trained on: examples as the model reads them, how the scores lie, what was left out."""
        scores = train.targets["target"].astype(np.float64)
        mean, deviation = scores.mean(), scores.std()
        lines = [f"scores: mean {mean:.4g}, deviation {deviation:.4g}, {scores.min():.4g} to {scores.max():.4g}"]
        if max(abs(mean), deviation) > 10:
            lines.append("a new head answers about 0 and learns slowly to answer more: bring the scores to a few units")
        return [*train.preview(tokenizer), *lines, *self.data.notes(self._bad)]

    def _bad(self, row: Row) -> str | None:
        column = self.data.label_column
        if reason := bad_text(self.data, row, column):
            return reason
        try:
            finite = abs(float(row.fields[column])) <= float(np.finfo(np.float32).max)  # the type of the targets
        except ValueError:
            finite = False
        return None if finite else f"field {column!r} is {row.fields[column]!r}, a finite number is wanted"

    def _features(self, rows: list[Row], tokenizer: Tokenizer) -> Features:
        def targets(rows: list[Row]) -> dict[str, np.ndarray]:
            return {"target": np.array([float(row.fields[self.data.label_column]) for row in rows], np.float32)}

        return features_of(self.data, rows, self._bad, targets, tokenizer, self.max_length)

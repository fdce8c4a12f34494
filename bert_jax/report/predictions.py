"""Predictions files: what was wanted and what was answered, and what can be computed from it."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from seqeval.metrics.sequence_labeling import get_entities

from bert_jax.report.runs import Run
from bert_jax.tasks.significance import (
    Measure,
    f1,
    label_macro_f1,
    macro_f1,
    matches,
    matthews,
    mean,
    pearson,
    share,
    spearman,
)

Line = dict[str, str]


def read_predictions(run: Run, evaluation: str) -> list[Line]:
    """The lines of a predictions file. Raises FileNotFoundError, and ValueError for an empty one."""
    path = Path(run.folder) / f"predictions-{evaluation}.tsv"
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    if not lines:
        raise ValueError(f"{path} has no lines")
    return lines


def wanted(lines: Sequence[Line]) -> list[str]:
    """What was to be answered: a class, labels, a tag, a number, or a text."""
    column = next((name for name in ("label", "tag") if name in lines[0]), None)
    if column is None:
        raise ValueError(f"no column says what was wanted: there are {', '.join(lines[0])}")
    return [line[column] for line in lines]


def measured(lines: Sequence[Line], metric: str, separator: str = "") -> tuple[np.ndarray, Measure]:
    """The numbers [n, K] of each example, and the measure that makes `metric` of them.

    An example of a tagging task is a sentence. A column with the name of the metric is taken as it is: questions can
    have an F1 each. Raises ValueError where the file does not have what the metric needs.

    Args:
        separator: between the labels of a line, where it has any number of them.
    """
    columns = lines[0].keys()
    if separator and metric in ("micro_f1", "macro_f1"):
        return _of_labels(lines, metric, separator)
    if metric in columns:
        return np.array([[float(line[metric])] for line in lines]), mean
    if {"sentence", "tag", "prediction"} <= columns and metric in ("accuracy", "f1"):
        return _of_sentences(lines, metric)
    answers = [line.get("prediction", "") for line in lines]
    if are_numbers(lines) and metric in ("pearson", "spearman"):
        return numbers_of(lines), pearson if metric == "pearson" else spearman
    measures = {"f1": f1, "macro_f1": macro_f1, "matthews": matthews}
    if not are_classes(lines) or metric not in ("accuracy", *measures):
        raise ValueError(f"{metric} cannot be computed from the predictions, which have {', '.join(columns)}")
    if metric == "accuracy":
        return np.array([[float(a == b)] for a, b in zip(wanted(lines), answers, strict=True)]), mean
    numbers = {name: i for i, name in enumerate(classes_of(lines))}
    labels, found = (np.array([numbers[name] for name in names]) for names in (wanted(lines), answers))
    return matches(labels, found, len(numbers)), measures[metric]


def are_numbers(lines: Sequence[Line]) -> bool:
    """Whether numbers were wanted and answered: a class has the probabilities of all beside it."""
    return lines[0].keys() == {"label", "prediction"}


def numbers_of(lines: Sequence[Line]) -> np.ndarray:
    """What was wanted and what was answered, [n, 2]."""
    return np.array([[float(line["label"]), float(line["prediction"])] for line in lines])


def are_classes(lines: Sequence[Line]) -> bool:
    """Whether each line has one class that was wanted and one that was answered: not several labels, not a text."""
    if "tag" in lines[0]:
        return True
    named = {column[2:-1] for column in lines[0] if column.startswith("p(")}
    return bool(named) and all({line["label"], line["prediction"]} <= named for line in lines)


def classes_of(lines: Sequence[Line]) -> list[str]:
    """The classes in order: those with a column of probabilities; of tags all that occur."""
    named = [column[2:-1] for column in lines[0] if column.startswith("p(")]
    return named or sorted({*wanted(lines), *(line["prediction"] for line in lines)})


def _of_labels(lines: Sequence[Line], metric: str, separator: str) -> tuple[np.ndarray, Measure]:
    """Which labels each line rightly found, found, and was to find; how many, for the F1 over all of them together."""
    places = {name: i for i, name in enumerate(classes_of(lines))}
    found, label = np.zeros((2, len(lines), len(places)), bool)
    for number, line in enumerate(lines):
        for column, marks in (("prediction", found), ("label", label)):
            names = line[column].split(separator) if line[column] else []
            if unknown := [name for name in names if name not in places]:
                raise ValueError(f"{metric} cannot be computed: {unknown[0]!r} is none of {', '.join(places)}")
            marks[number, [places[name] for name in names]] = True
    kinds = found & label, found, label
    if metric == "micro_f1":
        return np.stack([kind.sum(axis=1) for kind in kinds], axis=1).astype(np.float64), f1
    return np.concatenate(kinds, axis=1).astype(np.float64), label_macro_f1


def _of_sentences(lines: Sequence[Line], metric: str) -> tuple[np.ndarray, Measure]:
    """Right, found and wanted entities of each sentence; for accuracy the right words and all of them."""
    sentences: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        sentences[line["sentence"]].append(line)
    counts = []
    for words in sentences.values():
        gold, found = ([line[column] for line in words] for column in ("tag", "prediction"))
        if metric == "accuracy":
            counts.append((sum(a == b for a, b in zip(gold, found, strict=True)), len(words)))
        else:
            entities = set(get_entities(found)), set(get_entities(gold))
            counts.append((len(entities[0] & entities[1]), len(entities[0]), len(entities[1])))
    return np.array(counts, np.float64), share if metric == "accuracy" else f1

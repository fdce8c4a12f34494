"""What the tasks of one output for each text, or pair of texts, have in common."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from bert_jax.data.features import Features, encode_texts
from bert_jax.data.tables import Row, Tables, usable
from bert_jax.learners.multitask import Multitask
from bert_jax.text.tokenizer import Tokenizer


def check_text_columns(data: Tables) -> None:
    """Raises ValueError for text columns that are neither a text nor a pair."""
    if not 1 <= len(data.text_columns) <= 2:
        raise ValueError(f"text_columns {data.text_columns}: one field, or two for a pair")


def bad_text(data: Tables, row: Row, *others: str) -> str | None:
    """Says what is wrong with the texts of a row, or with other fields that must be text: empty, or a list."""
    fields = (*data.text_columns, *others)
    lists = [field for field in fields if not isinstance(row.fields[field], str)]
    return f"field {lists[0]!r} is a list, a text is wanted" if lists else data.empty_field(row, fields)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in an order that does not depend on the rows: whole numbers by value, then the others alphabetically."""
    labels = set(labels)
    number = {label: int(label) if re.fullmatch("-?[0-9]+", label) else math.inf for label in labels}
    return tuple(sorted(labels, key=lambda label: (number[label], label)))


def with_classes(learner: Multitask, name: str, classes: tuple[str, ...], data: Tables) -> Multitask:
    """The learner whose head `name` has these classes. Raises ValueError where it says another number of them."""
    head = head_of(learner, name)
    if head.num_classes not in (0, len(classes)):
        raise ValueError(
            f"the head has num_classes {head.num_classes}, but {data.train} has the {len(classes)} "
            f"labels {beginning(classes)} in field {data.label_column!r}"
        )
    head = replace(head, num_classes=len(classes), labels=classes)
    return replace(learner, objectives=dict(learner.objectives) | {name: head})


def head_of(learner: Multitask, name: str):
    """The head of a learner by its name. Raises ValueError where there is none."""
    if name not in learner.objectives:
        raise ValueError(f"the task needs a head called {name!r}; the learner has {', '.join(learner.objectives)}")
    return learner.objectives[name]


def features_of(
    data: Tables,
    rows: list[Row],
    bad: Callable[[Row], str | None],
    targets: Callable[[list[Row]], dict[str, np.ndarray]],
    tokenizer: Tokenizer,
    max_length: int,
) -> Features:
    """The texts of rows and what is to be predicted of them; `bad` says what is wrong with a row, see `usable`."""
    rows, _ = usable(rows, bad, data.skip_bad_rows)
    texts = [tuple(row.fields[column] for column in data.text_columns) for row in rows]
    encodings, cut = encode_texts(texts, tokenizer, max_length)
    return Features(encodings, targets(rows), tokenizer, max_length, truncated=cut)


def shares(classes: tuple[str, ...], counts: np.ndarray, of: int) -> str:
    """The classes with their shares of so many rows, the most frequent 20 first."""
    return beginning([f"{classes[i]} {counts[i] / of:.1%}" for i in np.argsort(-counts, kind="stable")])


def beginning(names: Sequence[str], most: int = 20) -> str:
    """A listing that does not fill the screen where there are hundreds."""
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")

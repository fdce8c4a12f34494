"""Texts with several labels: how a field says them, which there are, what is measured."""

import json
import math

import numpy as np
import pytest

from bert_jax.data.tables import Tables
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.tasks.multilabel import MultiLabels
from bert_jax.text.wordpiece import WordPiece

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])


def task_of(tmp_path, train, valid=None, separator="|", **options):
    """A task over JSON Lines with these labels, a list or a text each, or null."""
    for name, rows in (("train", train), ("valid", valid or train)):
        lines = [json.dumps({"text": "a b", "labels": labels}) for labels in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    files = str(tmp_path / "train.jsonl"), (str(tmp_path / "valid.jsonl"),)
    return MultiLabels(Tables(*files, label_column="labels", **options), max_length=8, separator=separator)


def targets(source):
    return source.targets["targets"].tolist()


def test_the_forms_of_a_label_field(tmp_path):
    """A list, text with separators and spaces around them, a JSON list as text; empty, null, [] and "" are no label.
    The classes are all that occur: numbers by value, then words."""
    rows = [["b", "a"], " a | 10 ", '["b", 9]', "", None, [], "b||b"]
    task = task_of(tmp_path, rows)
    assert task.classes == ("9", "10", "a", "b")
    found = task.train(TOKENIZER)
    none = [0, 0, 0, 0]
    assert targets(found) == [[0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1], none, none, none, [0, 0, 0, 1]]
    assert found.targets["targets"].dtype == np.float32
    assert found.read(np.array([1]))["targets"].tolist() == [[0, 1, 1, 0]]


def test_another_separator(tmp_path):
    """The default one is then part of a label; without any nothing could be split."""
    assert task_of(tmp_path, ["a|b,c", "c"], separator=",").classes == ("a|b", "c")
    with pytest.raises(ValueError, match="separator is empty"):
        task_of(tmp_path, ["a"], separator="")


@pytest.mark.parametrize("labels", ["['a', 'b']", '["a", {"b": 1}]', '["a"', ["a", ["b"]]])
def test_what_begins_as_a_list_and_is_none(tmp_path, labels):
    """Python's way to print a list is not JSON; it is no label of that name either, nor is a list in a list."""
    task = task_of(tmp_path, [["a"], labels])
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2: field 'labels' is .* which is no JSON list of labels"):
        task.train(TOKENIZER)


def test_a_label_that_training_does_not_have(tmp_path):
    """Is an error with file and line, or leaves the row out."""
    task = task_of(tmp_path, [["a"], ["b"]], [["a"], ["a", "x"]])
    with pytest.raises(ValueError, match=r"valid\.jsonl, line 2: label 'x' is none of those of .*train\.jsonl: a, b"):
        task.evaluations(TOKENIZER)
    task = task_of(tmp_path, [["a"], ["b"]], [["a"], ["a", "x"]], skip_bad_rows=True)
    assert targets(task.evaluations(TOKENIZER)["valid"]) == [[1, 0]]
    assert "1 of 2 rows of valid are left out" in task.preview(task.train(TOKENIZER), TOKENIZER)[-1]


def test_an_empty_text_is_bad(tmp_path):
    """An empty label field is none, an empty text is."""
    (tmp_path / "a.tsv").write_text("text\tlabels\na\ta|b\nb\t\n \ta\n")
    task = MultiLabels(Tables(str(tmp_path / "a.tsv"), (str(tmp_path / "a.tsv"),), label_column="labels"))
    with pytest.raises(ValueError, match=r"a\.tsv, line 4: field 'text' is empty"):
        task.train(TOKENIZER)


def test_prepare(tmp_path):
    """The head gets its labels; another number of them, or fewer than two in the data, is an error."""
    task = task_of(tmp_path, [["a"], ["b"], []])
    learner = Multitask(None, {"multilabel": MultiLabel(dropout=0.3)})
    assert task.prepare(learner).objectives["multilabel"] == MultiLabel(2, 0.3, labels=("a", "b"))
    with pytest.raises(ValueError, match=r"num_classes 3, but .*train\.jsonl has the 2 labels a, b in field 'labels'"):
        task.prepare(Multitask(None, {"multilabel": MultiLabel(3)}))
    with pytest.raises(ValueError, match=r"field 'labels' has only the label 'a', which is a classification"):
        task_of(tmp_path, [["a"], []]).prepare(learner)
    with pytest.raises(ValueError, match=r"field 'labels' has no label; two are needed"):
        task_of(tmp_path, [[], ""]).prepare(learner)


def test_the_baseline_is_the_share_of_each_label(tmp_path):
    """In training, a row with it and one without it added: a 3, b and c 2 of 5."""
    task = task_of(tmp_path, [["a", "b"], ["a"], ["c"]], [["a"], ["c"]])
    baselines = task.baselines(task.train(TOKENIZER), task.evaluations(TOKENIZER)["valid"])
    a, b, c = 3 / 5, 2 / 5, 2 / 5
    wanted = -(math.log(a) + math.log(1 - b) + math.log(1 - c) + math.log(1 - a) + math.log(1 - b) + math.log(c)) / 6
    assert baselines == {"multilabel/loss": pytest.approx(wanted)}


def test_score_and_rows(tmp_path):
    """A label is found from a probability of 0.5 on; the metrics are under the names that `metric_names` promises."""
    task = task_of(tmp_path, [["a", "b"], ["b"], []])
    valid = task.evaluations(TOKENIZER)["valid"]
    predictions = {"multilabel/probabilities": np.array([[0.5, 0.1234567], [0.4, 0.9], [0.6, 0.2]], np.float32)}
    score = task.score(predictions, valid)
    # By label: tp 1 fp 1 fn 0; tp 1 fp 0 fn 1.
    assert score == {"multilabel/micro_f1": pytest.approx(4 / 6), "multilabel/macro_f1": pytest.approx(2 / 3)}
    assert tuple(score) == task.metric_names
    rows = task.rows(predictions, valid)
    assert rows[0] == {"label": "a|b", "prediction": "a", "p(a)": 0.5, "p(b)": 0.123457}
    assert [(row["label"], row["prediction"]) for row in rows[1:]] == [("b", "b"), ("", "a")]


def test_preview(tmp_path):
    """The share of rows with each label, the most frequent first, and how many rows have none."""
    task = task_of(tmp_path, [["a", "b"], ["b"], [], []])
    lines = task.preview(task.train(TOKENIZER), TOKENIZER)
    assert lines[-2:] == ["2 labels: b 50.0%, a 25.0%", "0.75 labels a row; 2 rows have none"]

"""Scores of labelled files: what is a number, what is measured, what the log shows before the training."""

import numpy as np
import pytest

from bert_jax.data.tables import Tables
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.regress import Regress
from bert_jax.tasks.regression import Regression
from bert_jax.text.wordpiece import WordPiece

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])


def task_of(tmp_path, train, valid=None, **options):
    """A task over TSV files with the given (first, second, score) rows."""
    for name, rows in (("train", train), ("valid", valid or train)):
        lines = ["one\ttwo\tscore", *("\t".join(row) for row in rows)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    files = str(tmp_path / "train.tsv"), (str(tmp_path / "valid.tsv"),)
    return Regression(Tables(*files, text_columns=("one", "two"), label_column="score", **options), max_length=8)


ROWS = [("a", "b", "5.000"), ("b", "b c", "-1e-1"), ("a", "c", " 2 ")]


def test_sources(tmp_path):
    """Pairs with their scores as float32, in the order of the file; a single text is fine, too."""
    task = task_of(tmp_path, ROWS)
    batch = task.train(TOKENIZER).read(np.array([1, 0]))
    assert batch["target"].dtype == np.float32
    np.testing.assert_array_equal(batch["target"], np.float32([-0.1, 5]))
    assert batch["tokens"][0].tolist() == [2, 6, 3, 6, 7, 3, 0, 0]
    assert list(task.evaluations(TOKENIZER)) == ["valid"] and task.tokenizer() is None
    single = Regression(Tables(task.data.train, text_columns=("two",), label_column="score"), max_length=8)
    assert single.train(TOKENIZER).read(np.array([0]))["segments"].sum() == 0


@pytest.mark.parametrize("score", ["nan", "NaN", "inf", "-Infinity", "high", "3,5", "1e999", "1e39"])
def test_what_is_no_number_is_named_with_file_and_line(tmp_path, score):
    """Also what Python reads as a float without it being one to learn from, such as
    one that is too large for float32; nothing is trained on half of a file."""
    task = task_of(tmp_path, [*ROWS, ("a", "a", score)])
    with pytest.raises(ValueError, match=rf"train\.tsv, line 5: field 'score' is '{score}', a finite number is wanted"):
        task.train(TOKENIZER)


def test_bad_rows_are_left_out_and_counted_if_asked(tmp_path):
    """An empty text, an empty score and a word; the log says how many and shows the first."""
    bad = [("", "b", "1"), ("a", "b", ""), ("a", "b", "x")]
    task = task_of(tmp_path, [*bad, *ROWS], ROWS, skip_bad_rows=True)
    train = task.train(TOKENIZER)
    assert len(train) == 3
    note = task.preview(train, TOKENIZER)[-1]
    assert note == f"3 of 6 rows of train are left out, the first: {task.data.train}, line 2: field 'one' is empty"


def test_prepare(tmp_path):
    """Nothing is to be filled in; a learner without the head is an error."""
    task = task_of(tmp_path, ROWS)
    learner = Multitask(None, {"regress": Regress(0.3)})
    assert task.prepare(learner) == learner
    with pytest.raises(ValueError, match="the task needs a head called 'regress'; the learner has classify"):
        task.prepare(Multitask(None, {"classify": Classify()}))


def test_the_baseline_is_the_mean_of_training(tmp_path):
    """Its squared error on the held-out rows: the mean of 1 and 3 is 2, away from 0 and 5 by 2 and 3."""
    task = task_of(tmp_path, [("a", "b", "1"), ("a", "b", "3")], [("a", "b", "0"), ("a", "b", "5")])
    baselines = task.baselines(task.train(TOKENIZER), task.evaluations(TOKENIZER)["valid"])
    assert baselines == {"regress/loss": pytest.approx((4 + 9) / 2)}


def test_score_and_rows(tmp_path):
    """Both correlations under the names that `metric_names` promises; labels and predictions for the file."""
    task = task_of(tmp_path, [("a", "b", score) for score in ("0", "1", "2", "3")])
    valid = task.evaluations(TOKENIZER)["valid"]
    predictions = {"regress/score": np.array([0.0, 1, 4, 3], np.float32)}
    score = task.score(predictions, valid)
    assert score == {"regress/pearson": pytest.approx(6 / 50**0.5), "regress/spearman": pytest.approx(0.8)}
    assert tuple(score) == task.metric_names
    assert task.rows(predictions, valid)[2] == {"label": "2.0", "prediction": 4.0}


def test_preview(tmp_path):
    """Where the scores lie, and a warning where a new head would be slow to get there."""
    task = task_of(tmp_path, [("a", "b", "1"), ("a", "b", "3")])
    lines = task.preview(task.train(TOKENIZER), TOKENIZER)
    assert lines[0] == "example 0: [CLS] a [SEP] b [SEP]"
    assert lines[-1] == "scores: mean 2, deviation 1, 1 to 3"
    far = task_of(tmp_path, [("a", "b", "1000"), ("a", "b", "1001")])
    assert "bring the scores to a few units" in far.preview(far.train(TOKENIZER), TOKENIZER)[-1]

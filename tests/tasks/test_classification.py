"""Classification of labelled files: which classes there are, which rows are read, what the predictions file holds."""

import dataclasses

import numpy as np
import pytest

from bert_jax.data.tables import Tables
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.classify import Classify
from bert_jax.tasks.classification import Classification
from bert_jax.text.wordpiece import WordPiece

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])


def task_of(tmp_path, train, valid=None, metrics=(), **options):
    """A task over TSV files with the given (text, label) rows."""
    for name, rows in (("train", train), ("valid", valid or train)):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    data = Tables(str(tmp_path / "train.tsv"), (str(tmp_path / "valid.tsv"),), **options)
    return Classification(data, max_length=8, metrics=metrics)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "9", "-1", "0"], ("-1", "0", "9", "10")),
        (["pos", "neg", "neu"], ("neg", "neu", "pos")),
        (["b", "2", "10", "a"], ("2", "10", "a", "b")),
        (["1", "01", "²"], ("01", "1", "²")),
    ],
)
def test_classes_are_the_sorted_labels(tmp_path, labels, classes):
    """Numbers by value, then words by the alphabet: the same numbers of the classes in every process."""
    task = task_of(tmp_path, [("a", label) for label in labels])
    assert task.classes == classes
    assert task.train(TOKENIZER).targets["label"].tolist() == [classes.index(label) for label in labels]


def test_sources(tmp_path):
    """Training and held-out rows in the order of their files, labels numbered by the classes of the training file."""
    task = task_of(tmp_path, [("a", "y"), ("b", "x")], [("b b", "y")])
    assert task.tokenizer() is None  # the checkpoint's is used
    assert task.train(TOKENIZER).read(np.array([0, 1]))["tokens"][:, 1].tolist() == [5, 6]
    evaluations = task.evaluations(TOKENIZER)
    assert list(evaluations) == ["valid"]
    assert evaluations["valid"].targets["label"].tolist() == [1] and evaluations["valid"].max_length == 8


def test_pairs(tmp_path):
    """Two fields are a pair, in the order given."""
    (tmp_path / "train.tsv").write_text("q\ta\tlabel\na\tb b\t1\n")
    path = str(tmp_path / "train.tsv")
    task = Classification(Tables(path, (path,), text_columns=("a", "q")), max_length=8)
    assert task.train(TOKENIZER).read(np.array([0]))["tokens"].tolist() == [[2, 6, 6, 3, 5, 3, 0, 0]]
    with pytest.raises(ValueError, match=r"text_columns \('a', 'b', 'c'\): one field, or two for a pair"):
        Classification(Tables(path, (path,), text_columns=("a", "b", "c")))


def test_a_label_outside_the_classes_names_its_file_and_line(tmp_path):
    """Held-out labels that training does not have are an error, not another class."""
    task = task_of(tmp_path, [("a", "0"), ("b", "1")], [("a", "0"), ("a", "2")])
    with pytest.raises(ValueError, match=r"valid\.tsv, line 3: label '2' is none of the classes of .*train\.tsv: 0, 1"):
        task.evaluations(TOKENIZER)


def test_train_limit_draws_evenly(tmp_path):
    """A fixed draw without repeats from all rows; another seed draws others; the classes stay those of all rows."""
    rows = [("a " * (i % 6 + 1), str(i)) for i in range(40)]
    task = task_of(tmp_path, rows, train_limit=10)
    drawn = task.train(TOKENIZER).targets["label"].tolist()
    assert len(set(drawn)) == 10 and max(drawn) > 20
    assert len(task.classes) == 40
    assert task_of(tmp_path, rows, train_limit=10).train(TOKENIZER).targets["label"].tolist() == drawn
    assert task_of(tmp_path, rows, train_limit=10, draw_seed=1).train(TOKENIZER).targets["label"].tolist() != drawn
    assert len(task.evaluations(TOKENIZER)["valid"]) == 40
    with pytest.raises(ValueError, match=r"train_limit 41: .*train\.tsv has only 40"):
        task_of(tmp_path, rows, train_limit=41).train(TOKENIZER)


def test_the_head_gets_its_number_of_classes(tmp_path):
    """0 and the labels are filled in, nothing else; a number that the data contradicts is an error with the labels."""
    task = task_of(tmp_path, [("a", "0"), ("b", "1"), ("c", "2")])
    learner = Multitask(None, {"classify": Classify(dropout=0.3)})
    assert task.prepare(learner).objectives["classify"] == Classify(num_classes=3, dropout=0.3, labels=("0", "1", "2"))
    assert task.prepare(Multitask(None, {"classify": Classify(3)})).objectives["classify"].num_classes == 3
    with pytest.raises(ValueError, match=r"num_classes 2, but .*train\.tsv has the 3 labels 0, 1, 2 in field 'label'"):
        task.prepare(Multitask(None, {"classify": Classify(2)}))


def test_the_baseline_is_the_majority_class_of_training(tmp_path):
    """Not that of the held-out rows."""
    task = task_of(tmp_path, [("a", "x"), ("b", "y"), ("c", "y")], [("a", "x"), ("b", "x"), ("c", "x"), ("a", "y")])
    baselines = task.baselines(task.train(TOKENIZER), task.evaluations(TOKENIZER)["valid"])
    assert baselines == {"classify/accuracy": 0.25}


def test_rows_of_the_predictions_file(tmp_path):
    """Label, prediction and the probability of each class, by the names of the labels, in the order of the file."""
    task = task_of(tmp_path, [("a", "neg"), ("b", "pos")], [("a", "pos"), ("b", "neg")])
    predictions = {"classify/probabilities": np.array([[0.2, 0.8], [0.1234567, 0.8765433]], np.float32)}
    assert task.rows(predictions, task.evaluations(TOKENIZER)["valid"]) == [
        {"label": "pos", "prediction": "pos", "p(neg)": 0.2, "p(pos)": 0.8},
        {"label": "neg", "prediction": "pos", "p(neg)": 0.123457, "p(pos)": 0.876543},
    ]


def test_classes_that_are_given(tmp_path):
    """Their order is kept, so that f1 is of the one that is meant; another label is a bad row, in training too."""
    task = task_of(tmp_path, [("a", "same"), ("b", "other"), ("c", "same")])
    task = dataclasses.replace(task, labels=("other", "same"))
    assert task.classes == ("other", "same")
    assert task.train(TOKENIZER).targets["label"].tolist() == [1, 0, 1]
    task = dataclasses.replace(task, labels=("other", "equal"))
    with pytest.raises(ValueError, match=r"train\.tsv, line 2: label 'same' is none of the classes: other, equal"):
        task.train(TOKENIZER)


def test_a_rare_label_that_is_held_out(tmp_path):
    """Where a share of the file is held out, the classes are those of the whole file: nobody knows what was drawn."""
    task = task_of(tmp_path, [("a", str(i)) for i in range(20)])
    task = dataclasses.replace(task, data=Tables(task.data.train, valid_share=0.5))
    assert len(task.classes) == 20
    assert len(task.train(TOKENIZER)) == len(task.evaluations(TOKENIZER)["valid"]) == 10


def test_fields_that_are_lists(tmp_path):
    """Neither a text nor the label can be one."""
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": [1, 2]}\n')
    path = str(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: field 'label' is a list, a text is wanted"):
        Classification(Tables(path, (path,))).classes  # noqa: B018
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: field 'label' is a list, a text is wanted"):
        Classification(Tables(path, (path,), text_columns=("label",), label_column="text")).train(TOKENIZER)


def test_metrics_of_a_whole_set(tmp_path):
    """Those that are asked for, by the names that `metric_names` promises; f1 and matthews want two classes."""
    task = task_of(tmp_path, [("a", label) for label in "1100"], metrics=("f1", "macro_f1", "matthews"))
    predictions = {"classify/probabilities": np.eye(2, dtype=np.float32)[[1, 0, 0, 0]]}
    score = task.score(predictions, task.evaluations(TOKENIZER)["valid"])
    assert score == {
        "classify/f1": pytest.approx(2 / 3),
        "classify/macro_f1": pytest.approx((2 / 3 + 4 / 5) / 2),
        "classify/matthews": pytest.approx(2 / 12**0.5),
    }
    assert tuple(score) == task.metric_names
    three = task_of(tmp_path, [("a", label) for label in "012"], metrics=("f1",))
    with pytest.raises(ValueError, match=r"f1 and matthews are of two classes, but .*train\.tsv has 3: macro_f1\?"):
        three.prepare(Multitask(None, {"classify": Classify()}))


def test_one_class_is_not_enough(tmp_path):
    """There is nothing to learn; the label is named."""
    with pytest.raises(ValueError, match=r"train\.tsv: every row has the label 'x'; two classes are needed"):
        task_of(tmp_path, [("a", "x")]).prepare(Multitask(None, {"classify": Classify()}))


def test_preview(tmp_path):
    """Examples, the classes by their share, what was left out of training and of the held-out rows."""
    rows = [("a b", "x"), ("b", "y"), ("c", "y"), ("c", "y"), ("", "x")]
    task = task_of(tmp_path, rows, [("a", "x"), ("a", "z")], skip_bad_rows=True)
    lines = task.preview(task.train(TOKENIZER), TOKENIZER)
    assert lines[:2] == ["example 0: [CLS] a b [SEP]", "  4 tokens, label 0"]
    assert lines[-3] == "2 classes: y 75.0%, x 25.0%"
    assert lines[-2].startswith("1 of 5 rows of train are left out") and "line 6: field 'text' is empty" in lines[-2]
    assert lines[-1].startswith("1 of 2 rows of valid are left out") and "line 3: label 'z' is none of" in lines[-1]
    many = task_of(tmp_path, [("a", str(i)) for i in range(25)])
    assert many.preview(many.train(TOKENIZER), TOKENIZER)[-1].endswith("19 4.0%, and 5 more")

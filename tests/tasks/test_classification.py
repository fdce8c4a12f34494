"""Classification of labelled files: which classes there are, which rows are read, what the predictions file holds."""

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

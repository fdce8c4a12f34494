"""Multiple choice: rows of files as questions of several rows each, and a run over them."""

import json

import jax
import numpy as np
import pytest

from bert_jax.data.loader import EvaluationBatches, TrainingBatches
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.choice import Choice
from bert_jax.tasks.choice import MultipleChoice
from bert_jax.text.tokenizer import load
from bert_jax.text.wordpiece import WordPiece
from bert_jax.train import train
from bert_jax.training.optim import BertAdam
from tests.interop.random_models import random_model

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
TOKENIZER = WordPiece(PIECES)
LISTS = {"text_columns": ("question", "choices"), "label_column": "answer"}


def lists_of(path, rows):
    """A JSON Lines file of (question, choices, answer)."""
    lines = [json.dumps(dict(zip(("question", "choices", "answer"), row, strict=True))) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def task_of(tmp_path, train, valid=None, max_length=10, skip_bad_rows=False, **options):
    files = [lists_of(tmp_path / f"{name}.jsonl", rows) for name, rows in (("train", train), ("valid", valid or train))]
    data = Tables(files[0], (files[1],), skip_bad_rows=skip_bad_rows, **LISTS)
    return MultipleChoice(data, max_length=max_length, **options)


def tokens(features):
    """The rows of all questions as text, without padding."""
    batch = features.read(np.arange(len(features)))
    return [" ".join(TOKENIZER.tokens(row[:n])) for row, n in zip(batch["tokens"], batch["lengths"], strict=True)]


def test_rows_of_questions(tmp_path):
    """A row for each choice, the shortest possible ones where a question has fewer than another; the label counted from
    0, however it is written."""
    task = task_of(tmp_path, [("a", ["b", "c d"], "B"), ("e f", ["g", "h", "i"], "1")])
    features = task.train(TOKENIZER)
    assert len(features) == 2 and features.rows_each == task.num_choices == 3
    assert tokens(features) == [
        "[CLS] a [SEP] b [SEP]",
        "[CLS] a [SEP] c d [SEP]",
        "[CLS] [SEP]",
        "[CLS] e f [SEP] g [SEP]",
        "[CLS] e f [SEP] h [SEP]",
        "[CLS] e f [SEP] i [SEP]",
    ]
    batch = features.read(np.array([1, 0]))
    assert batch["label"].tolist() == [0, 0, 0, 1, 1, 1] and batch["example"].tolist() == [3, 4, 5, 0, 1, 2]
    assert batch["choice_mask"].tolist() == [True] * 5 + [False]
    assert batch["segments"][4].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]


def test_the_most_choices_of_all_files(tmp_path):
    """Held-out questions count, so that one head fits all."""
    task = task_of(tmp_path, [("a", ["b", "c"], "A")], [("a", ["b", "c", "d", "e"], "D")])
    assert task.train(TOKENIZER).rows_each == task.evaluations(TOKENIZER)["valid"].rows_each == 4
    head = task.prepare(Multitask(None, {"choice": Choice(dropout=0.3)})).objectives["choice"]
    assert head == Choice(num_choices=4, dropout=0.3)
    with pytest.raises(ValueError, match=r"num_choices 3, but .* 4"):
        task.prepare(Multitask(None, {"choice": Choice(3)}))
    with pytest.raises(ValueError, match="there are 4 choices, but answer_keys name 3"):
        task_of(tmp_path, [("a", ["b", "c"], "0")], [("a", ["b", "c", "d", "e"], "1")], answer_keys=("012",)).prepare(
            Multitask(None, {"choice": Choice()})
        )
    with pytest.raises(ValueError, match="needs a head called 'choice'"):
        task.prepare(Multitask(None, {"classify": Choice()}))


def test_columns_with_an_opening(tmp_path):
    """SWAG's layout: a context, a beginning that all continuations share, choices in columns, the label from 0."""
    path = tmp_path / "train.csv"
    path.write_text("sent1,e0,e1,e2,sent2,label\na b,d,e,f,c,2\na,d,e,,,1\n")
    columns = ("e0", "e1", "e2")
    data = Tables(str(path), (str(path),), text_columns=("sent1", "sent2", *columns))
    task = MultipleChoice(data, columns, "sent2", ("0123",), max_length=12)
    features = task.train(TOKENIZER)
    assert tokens(features)[2:5] == ["[CLS] a b [SEP] c f [SEP]", "[CLS] a [SEP] d [SEP]", "[CLS] a [SEP] e [SEP]"]
    assert features.targets["label"].tolist() == [2, 2, 2, 1, 1, 1]
    assert features.targets["choice_mask"].tolist() == [True] * 5 + [False]


def test_choices_inside_of_a_field(tmp_path):
    """As TFDS and the hub have those of ARC."""
    path = tmp_path / "train.jsonl"
    row = {"question": "a", "choices": {"text": ["b", "c d"], "label": ["A", "B"]}, "answerKey": "B"}
    path.write_text(json.dumps(row) + "\n")
    data = Tables(str(path), (str(path),), text_columns=("question", "choices/text"), label_column="answerKey")
    features = MultipleChoice(data, ("choices/text",), max_length=10).train(TOKENIZER)
    assert tokens(features) == ["[CLS] a [SEP] b [SEP]", "[CLS] a [SEP] c d [SEP]"]
    assert features.targets["label"].tolist() == [1, 1]


def test_a_long_context_is_cut_before_a_choice(tmp_path):
    """Its end, to the last token; then the beginning of the continuation, which is that of its opening."""
    rows = [("a b c d e f g", ["h", "h i j h i j", "a b c d e f g h i"], "A")]
    features = task_of(tmp_path, rows, max_length=10).train(TOKENIZER)
    assert tokens(features) == [
        "[CLS] a b c d e f [SEP] h [SEP]",
        "[CLS] a [SEP] h i j h i j [SEP]",
        "[CLS] [SEP] c d e f g h i [SEP]",
    ]
    assert features.truncated == 3 and features.max_length == 10


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("", ["b", "c"], "A"), "field 'question' is empty"),
        (("a", ["b", "c"], ""), "field 'answer' is empty"),
        (("a", [], "A"), "it has 0 choices, two are needed"),
        (("a", ["b", "", " "], "A"), "it has 1 choices, two are needed"),
        (("a", ["b", " ", "c"], "A"), "choice 2 of 3 is empty"),
        (("a", ["b", "c"], "C"), "label 'C' names none of the 2 choices"),
        (("a", ["b", "c"], "3"), "label '3' names none of the 2 choices"),
        (("a", ["b", "c"], "0"), "label '0' names none of the 2 choices"),
        (("a", ["b", "c"], "AB"), "label 'AB' names none of the 2 choices"),
        ((["a"], ["b", "c"], "A"), "field 'question' is a list, a text is wanted"),
        (("a", ["b", ["c"]], "A"), "field 'choices' is a list of lists, one of texts is wanted"),
        (("a", ["b", "\ud800"], "A"), r"field 'choices' is not Unicode: '\\ud800'"),
    ],
)
def test_bad_rows(tmp_path, row, message):
    """An error with file and line; or left out and counted."""
    rows = [("a", ["b", "c"], "A"), row]
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 2: {message}"):
        task_of(tmp_path, rows).train(TOKENIZER)
    task = task_of(tmp_path, rows, skip_bad_rows=True)
    features = task.train(TOKENIZER)
    assert len(features) == 1
    assert any("1 of 2 rows of train are left out" in line for line in task.preview(features, TOKENIZER))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choice_columns": ("A", "B")}, "'A' is none of the text_columns question, choices"),
        ({"opening_column": "sent2"}, "'sent2' is none of the text_columns"),
        ({"choice_columns": ("question", "choices")}, "must hold a context and choices"),
        ({"choice_columns": ()}, "must hold a context and choices"),
        ({"answer_keys": ("0123", "1234")}, "'1' names two choices"),
        ({"max_length": 3}, "max_length 3"),
    ],
)
def test_settings(options, message):
    """What contradicts itself is said before anything is read."""
    with pytest.raises(ValueError, match=message):
        MultipleChoice(Tables("train.jsonl", **LISTS), **options)


def test_predictions_and_baseline(tmp_path):
    """One line per question; the most frequent place of the training answers as baseline."""
    train_rows = [("a", ["b", "c", "d"], key) for key in "BBA"]
    task = task_of(tmp_path, train_rows, [("a", ["b", "c"], "B"), ("a", ["b", "c", "d"], "C")])
    evaluation = task.evaluations(TOKENIZER)["valid"]
    predictions = {"choice/probabilities": np.array([0.75, 0.25, 0.0, 0.2, 0.3, 0.5], np.float32)}
    assert task.rows(predictions, evaluation) == [
        {"label": "B", "prediction": "A", "p(A)": 0.75, "p(B)": 0.25, "p(C)": 0.0},
        {"label": "C", "prediction": "C", "p(A)": 0.2, "p(B)": 0.3, "p(C)": 0.5},
    ]
    assert task.score(predictions, evaluation) == {} and task.metric_names == ()
    assert task.baselines(task.train(TOKENIZER), evaluation) == {"choice/accuracy": 0.5}


def test_batches_keep_questions_together(tmp_path):
    """Of a shuffled epoch and of a ragged evaluation: C rows that follow each other, with one label and one weight."""
    rows = [("a", ["b", "c", "d"], "ABC"[i % 3]) for i in range(11)]
    features = task_of(tmp_path, rows).train(TOKENIZER)
    for batch in (TrainingBatches(features, 8, seed=0)[0], *EvaluationBatches(features, 8)):
        assert len(batch["weight"]) == 24
        questions = batch["example"].reshape(8, 3)
        assert (questions % 3 == np.arange(3)).all() and (questions // 3 == questions[:, :1] // 3).all()
        for name in ("label", "weight"):
            assert (batch[name].reshape(8, 3) == batch[name].reshape(8, 3)[:, :1]).all()
    weights = [batch["weight"].sum() for batch in EvaluationBatches(features, 8)]
    assert weights == [24, 9]


def test_a_run(tmp_path):
    """From the files to the metrics on eight devices: questions of two and three choices, a ragged last batch. The
    answer is the choice that repeats the context, which is soon learned; the metrics agree with the predictions."""
    rng = np.random.default_rng(0)

    def rows(count):
        for i in range(count):
            letters = rng.permutation(list("abcdefgh"))[: 2 + i % 2]
            place = int(rng.integers(len(letters)))
            yield " ".join(3 * [str(letters[place])]), [f"{letter} {letter}" for letter in letters], "ABC"[place]

    task = task_of(tmp_path, list(rows(400)), list(rows(43)), name="tiny")
    start = random_model({}, tokenizer=TOKENIZER, vocab_size=TOKENIZER.vocab_size, max_length=16)
    start.save(tmp_path / "start")
    experiment = Experiment(
        task=task,
        learner=Multitask(None, {"choice": Choice(dropout=0.0)}),
        optimizer=BertAdam(learning_rate=3e-3),
        init_from=tmp_path / "start",
        dropout=0.0,
        batch_size=32,
        eval_batch_size=16,
        epochs=8.0,
        best_metric="valid/choice/accuracy",
    )
    found = train(experiment, tmp_path / "run")
    lines = [line.split("\t") for line in (tmp_path / "run/predictions-valid.tsv").read_text().splitlines()]
    assert lines[0] == ["label", "prediction", "p(A)", "p(B)", "p(C)"] and len(lines) == 44
    assert all(float(line[4]) == 0 for line in lines[1::2])  # of two choices
    right = np.mean([line[0] == line[1] for line in lines[1:]])
    loss = np.mean([-np.log(float(line[2 + "ABC".index(line[0])])) for line in lines[1:]])
    assert found["valid/choice/accuracy"] == pytest.approx(right)
    assert found["valid/choice/loss"] == pytest.approx(loss, abs=1e-4)
    assert right > 0.9
    assert jax.device_count() == 8


@pytest.mark.parametrize(("name", "train_count", "test_count"), [("easy", 2251, 570), ("challenge", 1119, 299)])
def test_arc(shared_data, name, train_count, test_count):
    """The real rows, all of them read; those without choices or with a key outside of them are the only bad ones."""
    letters = ("A", "B", "C", "D")
    train_file, test_file = (str(shared_data / f"arc/arc_{name}_{split}.csv") for split in ("dev", "test"))
    columns = ("question", *letters, "answer")
    options = {"text_columns": columns[:-1], "label_column": "answer", "columns": columns, "skip_bad_rows": True}
    task = MultipleChoice(Tables(train_file, (test_file,), **options), letters)
    assert len(task.data.train_rows) == train_count and len(task.data.valid_rows["valid"]) == test_count
    assert task.num_choices == 4
    for rows, source in (
        (task.data.train_rows, task.train(load(shared_data / "vocab/bert-base-uncased"))),
        (task.data.valid_rows["valid"], task.evaluations(load(shared_data / "vocab/bert-base-uncased"))["valid"]),
    ):
        good = [row for row in rows if row.fields["A"] and row.fields["answer"] != "E"]
        assert len(source) == len(good) > 0.95 * len(rows)
        counts = source.targets["choice_mask"].reshape(-1, 4).sum(axis=1)
        assert counts.tolist() == [sum(bool(row.fields[letter]) for letter in letters) for row in good]
        labels = source.targets["label"].reshape(-1, 4)[:, 0]
        assert ["ABCD"[label] for label in labels] == [
            row.fields["answer"].translate(str.maketrans("1234", "ABCD")) for row in good
        ]

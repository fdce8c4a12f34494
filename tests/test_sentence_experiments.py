"""The experiment files for anyone's own texts and for GLUE, from the command line to a model that is opened again."""

import contextlib
import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_jax.experiment import Experiment, decode, encode, parse
from bert_jax.pretrained import load
from bert_jax.text.wordpiece import WordPiece
from bert_jax.train import train
from tests.interop.random_models import random_model
from tests.test_experiment import fine_tuning

ROOT = Path(__file__).parents[1]
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])


@contextlib.contextmanager
def example(name):
    """The module of an experiment file, loaded through importlib, since tyro reads its source."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"experiments/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


@pytest.mark.parametrize("name", ["classify", "regress", "multilabel", "glue"])
def test_their_own_commands(name):
    """What the docstring tells to type is valid, and its record round-trips."""
    with example(name) as module:
        command = next(part for part in module.__doc__.split("\n\n") if f"experiments/{name}.py" in part)
        command = command[command.index(f"experiments/{name}.py") :].replace("\\\n", " ")
        workdir, experiment = parse(module.config, command.split()[1:])
    assert str(workdir).startswith("runs/") and isinstance(experiment, Experiment)
    assert decode(json.loads(json.dumps(encode(experiment)))) == experiment


# ---- a config with parameters ----------------------------------------------------------------------------------------


def config(size: str, steps: int = 0) -> Experiment:
    experiment = fine_tuning()
    return Experiment(experiment.task, experiment.learner, init_from=Path(size), epochs=float(steps or 1))


def test_parameters_of_a_config_are_flags():
    """In any order they choose the experiment; all its flags stay, and one of the same name belongs to the config."""
    _, plain = parse(config, ["--workdir", "w", "--size", "mini"])
    assert plain.init_from == Path("mini") and plain.epochs == 1
    more = ["--steps", "3", "--batch-size", "8", "--data.train", "x.csv"]
    workdir, read = parse(config, [*more, "--size", "mini", "--workdir", "w"])
    assert workdir == Path("w") and read.epochs == 3 and read.steps == 0 and read.batch_size == 8
    assert read.task.data.train == "x.csv"


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--workdir", "w"], "--size", 2),
        (["--size", "mini", "--workdir", "w", "--stepz", "3"], "--stepz", 2),
        (["--help"], "--size", 0),
        (["--size", "mini", "--help"], "--optimizer.learning-rate", 0),
    ],
)
def test_help_and_errors_of_such_a_config(arguments, said, code, capsys):
    """A parameter that is missing is asked for; help alone is about the parameters, after them about all flags."""
    with pytest.raises(SystemExit) as error:
        parse(config, arguments)
    assert error.value.code == code
    assert said in "".join(capsys.readouterr())


def test_every_task_of_glue_is_a_name(tmp_path):
    """Its data, head and best metric follow from it; flags change its numbers as those of any experiment."""
    with example("glue") as module:
        common = ["--workdir", "w", "--folder", str(tmp_path), "--optimizer.learning-rate", "3e-5", "--seed", "7"]
        _, cola = parse(module.config, ["--task", "CoLA", *common])
        _, sts = parse(module.config, ["--task", "STS-B", *common, "--data.valid-limit", "5"])
        with pytest.raises(SystemExit):
            parse(module.config, ["--task", "COLA", *common])
    assert cola.task.name == "CoLA" and cola.task.data.train == str(tmp_path / "CoLA/train.tsv")
    assert cola.optimizer.learning_rate == 3e-5 and cola.seed == 7
    assert list(cola.learner.objectives) == ["classify"] and cola.best_metric == "valid/classify/matthews"
    assert list(sts.learner.objectives) == ["regress"] and sts.best_metric == "valid/regress/spearman"
    assert sts.task.data.valid_limit == 5


# ---- from a file to a model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a small encoder of random weights."""
    folder = tmp_path_factory.mktemp("encoder") / "saved"
    random_model({}, tokenizer=TOKENIZER, vocab_size=TOKENIZER.vocab_size).save(folder)
    return folder


def reviews(path):
    """40 rows; a and b are good, c and d are bad."""
    rng = np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "review", "stars", "price", "topics"])
        for i in range(40):
            good = i % 2
            words = rng.choice(["a", "b"] if good else ["c", "d"], 4)
            topics = "|".join(sorted(set(words) & {"a", "c"}))
            writer.writerow([i, ", ".join(words), ["bad", "good"][good], f"{1 + 3 * good:.1f}", topics])
    return path


def flags(encoder, data, label, *more):
    sizes = ["--steps", "4", "--epochs", "0", "--batch-size", "8", "--eval-batch-size", "8", "--max-length", "12"]
    named = ["--data.train", str(data), "--data.text-columns", "review", "--data.label-column", label]
    return ["--workdir", "w", "--init-from", str(encoder), *named, *sizes, "--log-every", "2", *more]


def predictions(workdir):
    with open(workdir / "predictions-valid.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize(("name", "label"), [("classify", "stars"), ("regress", "price"), ("multilabel", "topics")])
def test_own_file(tmp_path, encoder, capsys, name, label):
    """A CSV with columns of one's own trains as it is: a tenth is held out, the log shows what is trained on, the
    model opens and predicts of the held-out rows what the predictions file says, and it passes through
    transformers' layout."""
    data = reviews(tmp_path / "reviews.csv")
    with example(name) as module:
        _, experiment = parse(module.config, flags(encoder, data, label))
    results = train(experiment, tmp_path / "run")
    assert experiment.best_metric in results and f"valid/{name}/loss" in results
    log = "".join(capsys.readouterr())
    assert "36 training examples (4 in valid)" in log and "example 2: [CLS] " in log and "of the rows were cut" in log
    found = predictions(tmp_path / "run")
    texts = [row.fields["review"] for row in experiment.task.data.valid_rows["valid"]]
    opened = load(tmp_path / "run", "best")
    opened.save(tmp_path / "hf")
    again = load(tmp_path / "hf")
    latest = load(tmp_path / "run")
    if name == "classify":
        assert "2 classes: " in log
        assert [each.label for each in latest.classify(texts)] == [row["prediction"] for row in found]
        assert again.classify(texts[0]).label in ("bad", "good")
    elif name == "regress":
        assert "scores: mean 2" in log
        np.testing.assert_allclose(latest.regress(texts), [float(row["prediction"]) for row in found], atol=1e-5)
        np.testing.assert_allclose(again.regress(texts), opened.regress(texts), rtol=1e-6)
    else:
        assert "2 labels: " in log
        assert ["|".join(sorted(each.labels)) for each in latest.multilabel(texts)] == [
            row["prediction"] for row in found
        ]
        assert again.labels == opened.labels == ("a", "c")


@pytest.mark.parametrize(
    ("name", "label", "more", "message"),
    [
        ("classify", "rating", (), r"line 2: no field 'rating'; it has 'id', 'review', 'stars', 'price', 'topics'"),
        ("regress", "stars", (), r"line 2: field 'stars' is 'bad', a finite number is wanted"),
        ("multilabel", "id", ("--best-metric", "valid/f1"), r"best_metric 'valid/f1' is none of .*multilabel/macro_f1"),
        ("classify", "stars", ("--data.valid", "no.csv"), r"no\.csv: no such file"),
    ],
)
def test_what_does_not_fit_is_found_first(tmp_path, encoder, name, label, more, message):
    """A column that is not there, labels that are no numbers, a metric that is none: before anything is written."""
    data = reviews(tmp_path / "reviews.csv")
    with example(name) as module:
        _, experiment = parse(module.config, flags(encoder, data, label, *more))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""The loop from end to end on a corpus that is learned in seconds: pre-training, then fine-tuning from its workdir."""

import csv
import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from bert_jax import evaluate
from bert_jax import train as train_module
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import load, load_experiment
from bert_jax.resolve import resolve
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import train
from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape

# Larger initial values than BERT's: at this width they make the difference between 60 steps and several hundred.
STDDEV = 0.1
SPEEDS = {"examples_per_second", "tokens_per_second", "mfu"}


def pretraining(corpus):
    return Experiment(
        task=Pretraining(corpus, valid_limit=40),
        learner=Multitask(
            Bert(num_layers=1, width=32, num_heads=2, mlp_width=64, max_length=32, init_stddev=STDDEV),
            {"mlm": Mlm(max_predictions=5, init_stddev=STDDEV), "nsp": Nsp(init_stddev=STDDEV)},
        ),
        optimizer=BertAdam(learning_rate=5e-3),  # at 1e-2 one of two seeds learns nothing
        steps=60,
        batch_size=32,
        eval_batch_size=32,
        log_every=5,
        eval_every=20,
        checkpoint_every=15,
        best_metric="valid/mlm/loss",
    )


@pytest.fixture(scope="module")
def pretrained(tiny_corpus, tmp_path_factory):
    """A finished pre-training: its workdir and what `train` returned."""
    workdir = tmp_path_factory.mktemp("runs") / "pretrained"
    return workdir, train(pretraining(tiny_corpus), workdir)


@pytest.fixture(scope="module")
def fine_tuning(pretrained):
    """Texts of 4 words each about one topic; the label is the topic. Of 18 held-out rows the last batch is ragged."""
    workdir, rng = pretrained[0].parent, np.random.default_rng(0)
    for name, count in (("train", 64), ("valid", 18)):
        lines = ["label\ttext"]
        for i in range(count):
            topic = "abcd"[i % 4]
            lines.append(f"topic {topic}\t" + " ".join(topic + last for last in rng.choice(list("lmn"), 4)))
        (workdir / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return Experiment(
        task=Classification(Tables(str(workdir / "train.tsv"), (str(workdir / "valid.tsv"),)), max_length=8),
        learner=Multitask(None, {"classify": Classify(init_stddev=STDDEV)}),
        optimizer=BertAdam(learning_rate=5e-3),
        init_from=pretrained[0],
        epochs=5.0,
        batch_size=16,
        eval_batch_size=16,
        log_every=1,
        eval_every=10,
        best_metric="valid/classify/accuracy",
    )


@pytest.fixture(scope="module")
def fine_tuned(fine_tuning, pretrained):
    workdir = pretrained[0].parent / "fine-tuned"
    return workdir, train(fine_tuning, workdir)


def lines_with(workdir, metric):
    return {line["step"]: line for line in read_metrics(workdir / "metrics.jsonl") if metric in line}


def test_the_loss_goes_down(pretrained):
    """Far below what a model reaches that ignores its input, on held-out text, too."""
    workdir, results = pretrained
    losses = [line["train/loss"] for line in lines_with(workdir, "train/loss").values()]
    assert losses[0] > 3.5 and losses[-1] < losses[0] - 1.2
    run = resolve(load_experiment(workdir))
    baselines = run.experiment.task.baselines(run.train_source, run.evaluations["valid"])
    assert results["valid/mlm/loss"] < baselines["mlm/loss"] - 0.5
    assert results["valid/mlm/accuracy"] > baselines["mlm/accuracy"] + 0.2


def test_the_metrics_have_their_names_and_steps(pretrained):
    """Every `log_every` steps the training's, every `eval_every` and at the end the evaluation's; all finite."""
    workdir, results = pretrained
    training, evaluations = lines_with(workdir, "train/loss"), lines_with(workdir, "valid/mlm/loss")
    assert list(training) == list(range(5, 61, 5)) and list(evaluations) == [20, 40, 60]
    means = {f"{name}/{kind}" for name in ("mlm", "nsp") for kind in ("loss", "accuracy")}
    named = {"loss", "learning_rate", "gradient_norm"} | means | SPEEDS
    for line in training.values():
        assert line.keys() == {"step", "time"} | {f"train/{name}" for name in named}
        assert all(math.isfinite(value) for value in line.values())
        assert all(line[f"train/{name}"] > 0 for name in SPEEDS | {"gradient_norm", "learning_rate"})
    for line in evaluations.values():
        assert line.keys() == {"step", "time"} | {f"valid/{name}" for name in means}
    assert {name: value for name, value in evaluations[60].items() if "/" in name} == results
    schedule = pretraining(workdir).optimizer.schedule(60)
    assert training[30]["train/learning_rate"] == pytest.approx(float(schedule(29)))


def test_the_last_checkpoints_and_the_best_are_kept(pretrained):
    """The last two, and the best by its held-out loss; saved every `checkpoint_every` steps and at evaluations."""
    workdir, _ = pretrained
    evaluations = lines_with(workdir, "valid/mlm/loss")
    best = min(evaluations, key=lambda step: evaluations[step]["valid/mlm/loss"])
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert kept == {45, 60, best}
    for a, b in zip(
        jax.tree.leaves(restore_params(workdir / "checkpoints", "best")),
        jax.tree.leaves(restore_params(workdir / "checkpoints", best)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_the_workdir_holds_all_that_is_needed(pretrained, tiny_corpus):
    """The record, the tokenizer, the environment, the curves for TensorBoard; and no half-written file."""
    workdir, _ = pretrained
    assert load_experiment(workdir) == pretraining(tiny_corpus)
    opened = load(workdir)
    assert opened.model.encoder.vocab_size == opened.tokenizer.vocab_size == 31
    assert opened.params["encoder"]["embeddings"]["words"]["table"].shape == (31, 32)
    assert json.loads((workdir / "environment.jsonl").read_text())["packages"]["jax"] == jax.__version__
    assert list((workdir / "tensorboard").iterdir())
    assert not [path for path in workdir.rglob("*") if "tmp" in path.name or "partial" in path.name]


def test_a_finished_run_started_again_evaluates_the_same(pretrained, tiny_corpus):
    """The same numbers from the restored checkpoint, exactly; nothing is trained, logged or saved again."""
    workdir, results = pretrained
    log = (workdir / "metrics.jsonl").read_bytes()
    saved = sorted((workdir / "checkpoints").iterdir())
    assert train(pretraining(tiny_corpus), workdir) == results
    assert (workdir / "metrics.jsonl").read_bytes() == log
    assert sorted((workdir / "checkpoints").iterdir()) == saved


def test_continued_pretraining(pretrained, tiny_corpus, tmp_path, capsys):
    """It starts from the other run's encoder and head with a new optimizer: the first evaluation is its last one."""
    workdir, results = pretrained
    experiment = dataclasses.replace(
        pretraining(tiny_corpus),
        learner=Multitask(None, {"mlm": Mlm(max_predictions=5)}),
        init_from=workdir,
        steps=3,
        eval_first=True,
        best_metric="",
    )
    train(experiment, tmp_path / "continued")
    first = lines_with(tmp_path / "continued", "valid/mlm/loss")
    assert list(first) == [0, 3]
    assert first[0]["valid/mlm/loss"] == pytest.approx(results["valid/mlm/loss"], rel=1e-6)
    assert "encoder, objectives_mlm from" in capsys.readouterr().out


def test_evaluation_as_a_program(pretrained, capsys):
    """`python -m bert_jax.evaluate WORKDIR`: the numbers of the log again, of the latest and of the best checkpoint."""
    workdir, results = pretrained
    evaluations = lines_with(workdir, "valid/mlm/loss")
    best = min(evaluations, key=lambda step: evaluations[step]["valid/mlm/loss"])
    for checkpoint, wanted in (("latest", results), ("best", evaluations[best])):
        evaluate.main(workdir, checkpoint)
        assert capsys.readouterr().out.splitlines() == [f"{name} {wanted[name]:.4f}" for name in results]


def test_evaluation_on_another_number_of_devices(pretrained, tmp_path, capsys):
    """A run on six, in batches that the eight here cannot share, and a warm-up that no other number of steps takes:
    evaluated with the same result."""
    workdir, results = pretrained
    for name in ("checkpoints", "tokenizer", "learner.json"):
        (tmp_path / name).symlink_to(workdir / name)
    record = json.loads((workdir / "config.json").read_text())
    record["mesh"] |= {"data": 3, "fsdp": 2}
    record["optimizer"]["warmup"] = 59
    (tmp_path / "config.json").write_text(json.dumps(record | {"batch_size": 30, "eval_batch_size": 18}))
    evaluate.main(tmp_path)
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert {name: float(value) for name, value in found.items()} == pytest.approx(results, abs=1e-4)
    assert load_experiment(tmp_path).mesh == MeshShape(data=3, fsdp=2)  # the record is what it was


def test_fine_tuning_starts_from_the_pretrained_encoder(fine_tuning, pretrained, tmp_path, monkeypatch):
    """Before the first step the encoder's parameters are the checkpoint's to the bit; random weights are others."""
    seen = {}

    def make_train_step(*_):
        def step(state, batch):
            seen["params"] = jax.device_get(state.params)
            raise KeyboardInterrupt

        return step

    monkeypatch.setattr(train_module, "make_train_step", make_train_step)
    saved = restore_params(pretrained[0] / "checkpoints")["encoder"]
    for random_weights in (False, True):
        experiment = dataclasses.replace(fine_tuning, random_weights=random_weights)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, tmp_path / str(random_weights))
        assert sorted(seen["params"]) == ["encoder", "objectives_classify"]
        assert jax.tree.structure(seen["params"]["encoder"]) == jax.tree.structure(saved)
        same = [(a == b).all() for a, b in zip(*map(jax.tree.leaves, (seen["params"]["encoder"], saved)), strict=True)]
        assert not any(same) if random_weights else all(same)
        config = json.loads((tmp_path / str(random_weights) / "config.json").read_text())
        assert config["learner"]["encoder"]["width"] == 32  # the record says what was trained


def test_fine_tuning_learns(fine_tuned):
    """The topic of a text is what pre-training has learned to see: above 9 in 10 after 20 steps, by chance 1 in 4."""
    workdir, results = fine_tuned
    assert results["valid/classify/accuracy"] > 0.9
    assert list(lines_with(workdir, "train/classify/loss")) == list(range(1, 21))
    assert list(lines_with(workdir, "valid/classify/accuracy")) == [10, 20]


def test_the_predictions_file_has_every_row(fine_tuned):
    """In the order of the held-out file, with its labels; the accuracy counted from it is the one reported."""
    workdir, results = fine_tuned
    with (workdir / "predictions-valid.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["label"] for row in rows] == [f"topic {'abcd'[i % 4]}" for i in range(18)]
    names = [f"topic {topic}" for topic in "abcd"]
    for row in rows:
        probabilities = [float(row[f"p({name})"]) for name in names]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == names[int(np.argmax(probabilities))]
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert results["valid/classify/accuracy"] == pytest.approx(right)

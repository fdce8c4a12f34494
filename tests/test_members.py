"""Several seeds as one program: each of them is the run that it would be alone."""

import dataclasses
import json
import math
import os
import signal

import jax
import numpy as np
import pytest

from bert_jax import evaluate
from bert_jax import train as train_module
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.members import seeds_table, summarise
from bert_jax.models.bert import Bert
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.pretrained import load
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import train
from bert_jax.training.checkpoint import Checkpoints, restore_params
from bert_jax.training.log import read_metrics
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape

pytestmark = pytest.mark.xdist_group("members")  # the fixtures are runs: made once, in one process

SEEDS = (7, 8, 9)


@pytest.fixture(scope="module")
def pretraining(tiny_corpus):
    """Dropout and masking, so that all that is random counts; float32. With an eps that does not let the optimizer turn
    the rounding of a gradient near zero into an update of full size."""
    encoder = Bert(num_layers=2, width=16, num_heads=2, mlp_width=16, max_length=32, init_stddev=0.1)
    return Experiment(
        task=Pretraining(tiny_corpus),
        learner=Multitask(encoder, {"mlm": Mlm(max_predictions=5, init_stddev=0.1)}),
        optimizer=BertAdam(learning_rate=1e-2, eps=1e-3),
        steps=6,
        batch_size=8,
        eval_batch_size=80,
        seed=SEEDS[0],
        log_every=1,
        eval_every=3,
        checkpoint_every=3,
        mesh=MeshShape(fsdp=8),
    )


@pytest.fixture(scope="module")
def alone(pretraining, tmp_path_factory):
    """The runs one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    for seed in SEEDS:
        train(dataclasses.replace(pretraining, seed=seed), folder / f"seed-{seed}")
    return folder


def metrics(workdir):
    """(step, name) -> value of all that does not depend on the clock."""
    speeds = ("examples_per_second", "tokens_per_second", "mfu")
    return {
        (entry["step"], name): value
        for entry in read_metrics(workdir / "metrics.jsonl")
        for name, value in entry.items()
        if name not in ("step", "time") and not name.endswith(speeds)
    }


def assert_the_same_runs(together, alone):
    """Metrics and parameters of every seed, to the rounding of sums in another order."""
    for seed in SEEDS:
        found, wanted = metrics(together / f"seed-{seed}"), metrics(alone / f"seed-{seed}")
        assert found.keys() == wanted.keys()
        logs = [read_metrics(folder / f"seed-{seed}/metrics.jsonl") for folder in (together, alone)]
        assert len(logs[0]) == len(logs[1])
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=2e-5), name
        a, b = (restore_params(folder / f"seed-{seed}/checkpoints") for folder in (together, alone))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5 * max(np.abs(y).max(), 1e-3))


@pytest.mark.parametrize("mesh", [MeshShape(fsdp=8), MeshShape(data=2, fsdp=4)])
def test_together_is_one_after_the_other(pretraining, alone, tmp_path, mesh):
    """Weights, order, masking and dropout of each seed are its own; the rows of all runs on all devices."""
    means = train(dataclasses.replace(pretraining, seeds=3, mesh=mesh), tmp_path / "together")
    assert_the_same_runs(tmp_path / "together", alone)
    values = [metrics(alone / f"seed-{seed}")[6, "valid/mlm/loss"] for seed in SEEDS]
    assert means["valid/mlm/loss"] == pytest.approx(np.mean(values), rel=2e-5)
    assert len(set(values)) == 3
    own = json.loads((tmp_path / "together/seed-8/config.json").read_text())
    assert (own["seed"], own["seeds"]) == (8, 1)
    summary = json.loads((tmp_path / "together/seeds.json").read_text())
    assert summary["metrics"]["valid/mlm/loss"]["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-3)
    assert load(tmp_path / "together/seed-9").params is not None
    with pytest.raises(FileNotFoundError, match=r"together holds 3 runs: open one of them, such as .*/seed-7"):
        load(tmp_path / "together")


def test_each_device_trains_its_own_runs(pretraining, tmp_path):
    """Where the devices divide the runs nothing is split over them: eight seeds on eight devices are eight runs."""
    experiment = dataclasses.replace(pretraining, seeds=8, mesh=MeshShape(), steps=2, eval_every=2)
    train(experiment, tmp_path / "together")
    train(dataclasses.replace(experiment, seeds=1, seed=10), tmp_path / "alone")
    found, wanted = metrics(tmp_path / "together/seed-10"), metrics(tmp_path / "alone")
    assert all(found[name] == pytest.approx(value, rel=2e-5) for name, value in wanted.items())


def test_stopped_and_continued(pretraining, alone, tmp_path, interrupted):
    """All of them go on from the latest step that all have saved."""
    experiment = dataclasses.replace(pretraining, seeds=3)
    interrupted(experiment, tmp_path / "together")
    train(experiment, tmp_path / "together")
    assert_the_same_runs(tmp_path / "together", alone)


def test_killed_between_the_saves_of_two_seeds(pretraining, alone, tmp_path, monkeypatch, capsys):
    """One has saved the last step and the others have not: the step before is still there, though one was to be kept;
    and the last two saves begin when all have finished the one before."""
    whole, saved = Checkpoints.save, []

    def killed(self, step, *args):
        if step == 6 and self.folder.parent.name == "seed-8":
            raise KeyboardInterrupt
        saved.append((self.folder.parent.name, step))
        return whole(self, step, *args)

    experiment = dataclasses.replace(pretraining, seeds=3, keep=1)
    monkeypatch.setattr(Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "together")
    assert saved == [("seed-7", 3), ("seed-8", 3), ("seed-9", 3), ("seed-7", 6)]
    monkeypatch.setattr(Checkpoints, "save", whole)
    capsys.readouterr()
    train(experiment, tmp_path / "together")
    assert "continues after step 3\n" in capsys.readouterr().out
    assert_the_same_runs(tmp_path / "together", alone)


def test_asked_to_stop_during_an_evaluation(pretraining, tmp_path, monkeypatch):
    """The step after it is the last: it is logged, with those since the last line, and saved."""
    whole = train_module.evaluate_all

    def asked(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(*args)

    monkeypatch.setattr(train_module, "evaluate_all", asked)
    with pytest.raises(SystemExit, match="75"):
        train(dataclasses.replace(pretraining, log_every=5), tmp_path / "w")
    assert metrics(tmp_path / "w").keys() >= {(3, "valid/mlm/loss"), (4, "train/loss")}
    assert max(int(path.name) for path in (tmp_path / "w/checkpoints").iterdir()) == 4


@pytest.fixture(scope="module")
def fine_tuning(alone, tmp_path_factory):
    """Two words, two classes."""
    path = tmp_path_factory.mktemp("tables") / "train.tsv"
    rows = [f"{topic}l {topic}m\t{topic}" for topic in 12 * "ab"] + ["al\ta"] * 8
    path.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return Experiment(
        task=Classification(Tables(str(path), (str(path),)), max_length=8, metrics=("f1", "matthews"), name="tiny"),
        learner=Multitask(None, {"classify": Classify()}),
        optimizer=BertAdam(learning_rate=1e-3),
        init_from=alone / "seed-7",
        steps=4,
        batch_size=8,
        eval_batch_size=8,
        eval_every=2,
        seeds=2,
        best_metric="valid/classify/matthews",
    )


def test_the_result_of_a_run(fine_tuning, tmp_path):
    """What a report needs: metrics of the head and of the whole set, the best evaluation, baselines, sizes."""
    train(fine_tuning, tmp_path / "w")
    result = json.loads((tmp_path / "w/seed-12346/result.json").read_text())
    assert {f"valid/classify/{kind}" for kind in ("loss", "accuracy", "f1", "matthews")} == set(result["metrics"])
    assert result["best"]["step"] in (2, 4)
    assert result["baselines"] == {"valid": {"classify/accuracy": 20 / 32}}
    assert (result["name"], result["seed"], result["step"]) == ("tiny", 12346, 4)
    assert (result["train_examples"], result["eval_examples"]) == (32, {"valid": 32})
    assert (tmp_path / "w/seed-12346/predictions-valid.tsv").exists()


def test_a_run_that_learned_nothing_is_named(fine_tuning, tmp_path, capsys):
    """It answers one class everywhere: at a learning rate of nothing, with a head of zeros. The best of equal
    evaluations is the last, as of the checkpoints. And the same command again changes nothing, not the time it took."""
    learner = Multitask(None, {"classify": Classify(init_stddev=0.0)})
    optimizer = BertAdam(learning_rate=1e-30)
    experiment = dataclasses.replace(fine_tuning, learner=learner, optimizer=optimizer, eval_first=True)
    train(experiment, tmp_path / "w")
    summary = json.loads((tmp_path / "w/seeds.json").read_text())
    assert list(summary["degenerate"]) == ["12345", "12346"]
    assert "seed 12345 is degenerate: valid/classify is no better than without looking" in capsys.readouterr().out
    files = [tmp_path / "w/seeds.json", *tmp_path.glob("w/**/result.json"), *tmp_path.glob("w/**/metrics.jsonl")]
    assert len(files) == 1 + 2 + 3
    written = [file.read_bytes() for file in files]
    result = json.loads((tmp_path / "w/seed-12345/result.json").read_text())
    assert result["best"]["step"] == 4 and result["best"]["valid/classify/matthews"] == 0 and result["seconds"] > 0
    train(experiment, tmp_path / "w")
    assert [file.read_bytes() for file in files] == written


def test_a_run_that_diverged_does_not_stop_the_others(fine_tuning, tmp_path, monkeypatch):
    """It is named with its steps, also after a second start, and its batch is saved; its metrics are null, the others'
    stay. Where none is left, training ends."""
    whole = train_module.make_train_step

    def poisoned(runs):
        def make_train_step(*args):
            step = whole(*args)

            def with_nan(state, batch):
                state, seen = step(state, batch)
                return state.replace(params=jax.tree.map(lambda x: x.at[runs].set(math.nan), state.params)), seen

            return with_nan

        monkeypatch.setattr(train_module, "make_train_step", make_train_step)

    poisoned(0)
    experiment = dataclasses.replace(
        fine_tuning, log_every=1, best_metric="valid/classify/loss", max_skipped_in_a_row=2
    )
    means = train(experiment, tmp_path / "w")
    first, second = (json.loads((tmp_path / f"w/seed-{seed}/result.json").read_text()) for seed in (12345, 12346))
    assert first["degenerate"].startswith("loss is nan at step 2, and the updates of 2 steps in a row, to step 3,")
    assert not (second["degenerate"] or "").startswith("loss")
    assert [path.parent.name for path in tmp_path.glob("w/**/nonfinite-step-3.npz")] == ["seed-12345"]
    assert metrics(tmp_path / "w/seed-12345")[2, "train/loss"] is None
    assert metrics(tmp_path / "w/seed-12345")[2, "train/skipped"] == 1
    assert metrics(tmp_path / "w")[2, "train/loss"] == metrics(tmp_path / "w/seed-12346")[2, "train/loss"]
    assert first["metrics"]["valid/classify/loss"] is None and first["best"] is None
    assert means["valid/classify/loss"] == second["metrics"]["valid/classify/loss"]
    assert second["best"]["valid/classify/loss"] <= second["metrics"]["valid/classify/loss"]
    monkeypatch.setattr(train_module, "make_train_step", whole)
    train(experiment, tmp_path / "w")
    first = json.loads((tmp_path / "w/seed-12345/result.json").read_text())
    assert first["degenerate"] == "2 updates in a row were skipped, as logged at step 3"
    poisoned(slice(None))
    with pytest.raises(
        FloatingPointError, match=r"every seed: loss is nan at step 2, (.|\n)*; loss is nan at step 2, "
    ):
        train(experiment, tmp_path / "all")


def test_a_seed_of_several_is_evaluated_again(fine_tuning, alone, tmp_path, capsys):
    """By its folder, to the metrics of its result, where a layer is frozen and one started anew; the folder above says
    which there are. The embeddings and the frozen layer are the checkpoint's."""
    optimizer = BertAdam(learning_rate=1e-2, frozen_layers=1)
    mesh = MeshShape(fsdp=8)
    experiment = dataclasses.replace(fine_tuning, optimizer=optimizer, reinitialised_layers=1, steps=2, mesh=mesh)
    train(experiment, tmp_path / "w")
    saved = restore_params(alone / "seed-7/checkpoints")["encoder"]
    capsys.readouterr()
    for seed in (12345, 12346):
        folder = tmp_path / f"w/seed-{seed}"
        found = restore_params(folder / "checkpoints")["encoder"]
        assert_equal(found["embeddings"], saved["embeddings"])
        lower, upper = ([jax.tree.map(lambda x, i=i: x[i], tree["layers"]) for tree in (found, saved)] for i in (0, 1))
        assert_equal(*lower)
        assert not np.allclose(upper[0]["mlp"]["widen"]["kernel"], upper[1]["mlp"]["widen"]["kernel"])
        evaluate.main(folder)
        result = json.loads((folder / "result.json").read_text())
        said = dict(line.split() for line in capsys.readouterr().out.splitlines())
        assert {name: float(value) for name, value in said.items()} == pytest.approx(result["metrics"], abs=1e-4)
    with pytest.raises(SystemExit, match=r"holds 2 runs: open one of them, such as .*/seed-12345"):
        evaluate.main(tmp_path / "w")


@pytest.mark.parametrize("seeds", [1, 2])
def test_reinitialised_layers(fine_tuning, alone, tmp_path, monkeypatch, seeds):
    """Before the first step the top layer and the pooler are what random weights would be, all below is the
    checkpoint's, of every seed."""
    seen = {}

    def make_train_step(*_):
        def step(state, batch):
            seen["encoder"] = jax.device_get(state.params["encoder"])
            raise KeyboardInterrupt

        return step

    monkeypatch.setattr(train_module, "make_train_step", make_train_step)
    start = dataclasses.replace(fine_tuning, seeds=seeds)
    found = []
    for i, changes in enumerate(({"reinitialised_layers": 1}, {"random_weights": True})):
        with pytest.raises(KeyboardInterrupt):
            train(dataclasses.replace(start, **changes), tmp_path / str(i))
        found.append(seen["encoder"])
    saved = restore_params(alone / "seed-7/checkpoints")["encoder"]
    for i in range(seeds):
        ours, new = ([jax.tree.map(lambda x, i=i: x[i], tree) for tree in found]) if seeds > 1 else found
        assert_equal(ours["embeddings"], saved["embeddings"])
        assert_equal(ours["pooler"], new["pooler"])
        assert_equal(jax.tree.map(lambda x: x[:1], ours["layers"]), jax.tree.map(lambda x: x[:1], saved["layers"]))
        assert_equal(jax.tree.map(lambda x: x[1:], ours["layers"]), jax.tree.map(lambda x: x[1:], new["layers"]))
    with pytest.raises(ValueError, match="reinitialised_layers 3, but the encoder has only 2 layers"):
        train(dataclasses.replace(start, reinitialised_layers=3), tmp_path / "3")


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_summary_of_seeds():
    """Sample standard deviation; the best loss is the lowest; what is no number is left out of the mean."""
    records = [
        {"metrics": {"valid/h/accuracy": 0.5, "valid/h/loss": 2.0}, "degenerate": None},
        {"metrics": {"valid/h/accuracy": 0.7, "valid/h/loss": None}, "degenerate": "why"},
    ]
    summary = summarise([1, 2], records)
    accuracy, loss = summary["metrics"]["valid/h/accuracy"], summary["metrics"]["valid/h/loss"]
    assert accuracy == {"mean": pytest.approx(0.6), "std": pytest.approx(0.02**0.5), "best": 0.7, "values": [0.5, 0.7]}
    assert loss == {"mean": 2.0, "std": None, "best": 2.0, "values": [2.0, None]}
    assert summary["degenerate"] == {"2": "why"}
    assert seeds_table(summary).splitlines()[2:] == [
        "| valid/h/accuracy | 0.6000 | 0.1414 | 0.7000 | 0.5000 | 0.7000 |",
        "| valid/h/loss | 2.0000 | - | 2.0000 | 2.0000 | - |",
        "",
        "seed 2 is degenerate: why",
    ]

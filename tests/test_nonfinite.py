"""Losses and gradients that are no numbers, in whole runs: skipped, counted, and the end where there are too many."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from bert_jax import train as train_module
from bert_jax.data.loader import TrainingBatches
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.resolve import resolve
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main, train
from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics
from bert_jax.training.meter import STEPS_AHEAD
from bert_jax.training.optim import BertAdam


def pretraining(corpus):
    encoder = Bert(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=32, scan=True)
    return Experiment(
        task=Pretraining(corpus, valid_limit=40),
        learner=Multitask(encoder, {"mlm": Mlm(max_predictions=5), "nsp": Nsp()}),
        optimizer=BertAdam(learning_rate=1e-3),
        steps=30,
        batch_size=32,
        eval_batch_size=32,
        log_every=5,
        eval_every=30,
        checkpoint_every=10,
        max_skipped_in_a_row=4,
    )


@pytest.fixture
def broken_at(monkeypatch):
    """`broken_at(steps)`: from now on batches of these steps have tokens that the vocabulary does not have."""
    whole = train_module.make_train_step

    def patch(steps):
        def make_train_step(*args):
            step = whole(*args)

            def broken(state, batch):
                if int(np.max(state.step)) + 1 in steps:
                    batch = batch | {"tokens": batch["tokens"] + 1000}
                return step(state, batch)

            return broken

        monkeypatch.setattr(train_module, "make_train_step", make_train_step)

    return patch


def test_single_steps_are_skipped(tiny_corpus, tmp_path, broken_at, capsys):
    """Three in a row and one alone, where four are too many: the run goes on, and the log counts them where they
    were; the numbers of all lines and the parameters are finite."""
    broken_at({7, 8, 9, 13})
    train(pretraining(tiny_corpus), tmp_path / "w")
    lines = {e["step"]: e for e in read_metrics(tmp_path / "w/metrics.jsonl") if "train/loss" in e}
    assert {step: line["train/skipped"] for step, line in lines.items() if "train/skipped" in line} == {10: 3, 15: 1}
    assert lines[10]["train/skipped_in_a_row"] == 3
    assert all(np.isfinite(value) for line in lines.values() for value in line.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restore_params(tmp_path / "w/checkpoints")))
    said = capsys.readouterr().out
    assert "warning: 3 of the 5 updates from step 6 on were skipped: loss is nan at step 7\n" in said
    assert "warning: 1 of the 5 updates from step 11 on were skipped: loss is nan at step 13\n" in said
    assert not list((tmp_path / "w").glob("*.npz"))


def test_too_many_in_a_row_end_the_run(tiny_corpus, tmp_path, broken_at, monkeypatch):
    """Soon after, however seldom it logs; the steps are named, the batch is there, and the checkpoints are those from
    before. The same command ends in the same way, and on good data it goes on."""
    experiment = dataclasses.replace(pretraining(tiny_corpus), log_every=30)
    broken_at(range(12, 31))
    workdir = tmp_path / "w"
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="updates of 4 steps in a row, to step 15, were skipped") as error:
            train(experiment, workdir)
        assert str(error.value).startswith("loss is nan at step 12, and")
        assert str(error.value).endswith(f"it is in {workdir}/nonfinite-step-15.npz")
        *_, last = read_metrics(workdir / "metrics.jsonl")
        assert last["step"] == 15 + STEPS_AHEAD and last["train/skipped"] == 4 + STEPS_AHEAD
        (file,) = workdir.glob("nonfinite*")
        with np.load(file) as saved:
            batch = TrainingBatches(resolve(experiment).train_source, 32, experiment.seed)[14]
            assert set(saved) == set(batch)
            for name, array in batch.items():
                np.testing.assert_array_equal(saved[name], array)
        assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["10"]
    broken_at(())
    train(experiment, workdir)
    assert json.loads((workdir / "result.json").read_text())["step"] == 30


def test_one_line_on_the_command_line(tiny_corpus, tmp_path, broken_at, monkeypatch):
    """As any other error, and the limit is a flag, which a continued run may change."""
    train(dataclasses.replace(pretraining(tiny_corpus), steps=2, checkpoint_every=1, eval_every=2), tmp_path / "other")

    def config() -> Experiment:
        return pretraining(tiny_corpus)

    broken_at(range(2, 31))
    arguments = ["experiment.py", "--workdir", str(tmp_path / "w"), "--max-skipped-in-a-row", "2", "--mesh.data", "8"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(
        SystemExit, match=r"^error: loss is nan at step 2, and the updates of 2 steps in a row, to step 3,"
    ):
        main(config)

"""`--find-batch-size`: what is tried, in which order, and what is said."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from bert_jax import batch_size as batch_size_module
from bert_jax.batch_size import MARGIN, Steps, Tried, advice, find_batch_size, search
from bert_jax.data.loader import TrainingBatches
from bert_jax.data.packing import Layout
from bert_jax.experiment import Experiment, parse
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.resolve import resolve
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape


def pretraining(corpus, **changes):
    encoder = Bert(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=32, scan=True)
    return Experiment(
        task=Pretraining(corpus, valid_limit=40),
        learner=Multitask(encoder, {"mlm": Mlm(max_predictions=5), "nsp": Nsp()}),
        optimizer=BertAdam(learning_rate=1e-3),
        **{"steps": 20, "batch_size": 64, "eval_batch_size": 32} | changes,
    )


def tried(at_most, wanted, parts=2, most=10**6):
    """What is tried where `at_most` examples at a time fit, and the advice."""

    def steps(batch_size, accumulate):
        at_a_time = batch_size // accumulate
        return Tried(batch_size, accumulate, at_a_time, at_a_time <= at_most)

    found = list(search(steps, wanted, parts, most))
    return [(tried.batch_size, tried.accumulate) for tried in found], advice(found, wanted)


def test_what_is_tried():
    """The batch as it is; doubled as long as that fits and there are examples for it, else divided, evenly over the
    devices, until it does."""
    assert tried(100, 32) == (
        [(32, 1), (64, 1), (128, 1)], "--batch-size 32 fits, and so does 64; for 128 give --accumulate 2"
    )  # fmt: skip
    assert tried(100, 32, most=70)[0] == [(32, 1), (64, 1)]
    assert "fits, and so does 64, the largest that the data are enough for" in tried(100, 32, most=70)[1]
    assert tried(10, 36) == ([(36, 1), (36, 2), (36, 3), (36, 6)], "give --batch-size 36 --accumulate 6")
    found, said = tried(1, 8)
    assert found == [(8, 1), (8, 2), (8, 4)] and "not even one example at a time" in said and "remat full" in said


def test_a_table_on_a_machine_that_is_too_small(tiny_corpus, monkeypatch, capsys):
    """From the command line of an experiment: more micro-batches need less, the first that fit are named, nothing is
    trained and no folder made; and what is advised fits indeed."""
    experiment = pretraining(tiny_corpus, mesh=MeshShape(data=2, fsdp=4))
    whole = Steps(resolve(experiment), 10**9)(64, 1)
    monkeypatch.setattr(batch_size_module, "device_bytes", lambda: int(0.95 * whole.needed))

    def config() -> Experiment:
        return experiment

    monkeypatch.setattr("sys.argv", ["experiment.py", "--workdir", "no/such/folder", "--find-batch-size"])
    main(config)
    head, columns, *rows, said = capsys.readouterr().out.splitlines()
    assert head.startswith("8 x ") and "90%" in head and columns.split()[:2] == ["batch", "accumulate"]
    table = [row.split() for row in rows]
    assert table[0][:3] == ["64", "1", "64"] and [row[-1] for row in table] == ["no"] * (len(table) - 1) + ["yes"]
    accumulate = int(re.fullmatch(r"give --batch-size 64 --accumulate (\d+)", said)[1])
    assert str(accumulate) == table[-1][1] and len(table) > 1
    assert Steps(resolve(experiment), 10**9)(64, accumulate).needed <= MARGIN * 0.95 * whole.needed


def test_a_batch_that_is_out_of_memory_on_an_accelerator(tiny_corpus, monkeypatch):
    """Where the plan fits, the step is run, and what the allocator says counts; another error is none of that."""
    monkeypatch.setattr(batch_size_module.jax, "default_backend", lambda: "gpu")
    steps = Steps(resolve(pretraining(tiny_corpus)), 10**12)
    assert steps(64, 1).fits
    for message, raised in (("RESOURCE_EXHAUSTED: Out of memory", False), ("INTERNAL: broken", True)):

        def init(message=message):
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setattr(steps, "_init", init)
        if raised:
            with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
                steps(64, 1)
        else:
            assert steps(64, 1) == Tried(64, 1, None, False)


class Lengths:
    """A source of rows of 3 to 11 tokens."""

    max_length = 32
    lengths = np.random.default_rng(0).integers(3, 12, 100).astype(np.int32)

    def __len__(self):
        return 100

    def read(self, indices):
        tokens = np.zeros((len(indices), 32), np.int32)
        return {"tokens": tokens, "lengths": self.lengths[indices], "example": indices.astype(np.uint32)}


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_fullest_batch_is_measured(tiny_corpus, seeds):
    """Of the first ones, which are packed in more or fewer rows; of several seeds in one shape."""
    run = resolve(pretraining(tiny_corpus, batch_size=16, seeds=seeds, mesh=MeshShape(fsdp=8)))
    run = dataclasses.replace(run, train_source=Lengths())
    orders = [TrainingBatches(Lengths(), 256, run.experiment.seed + seed) for seed in range(seeds)]
    layout = Layout.of(Lengths(), "packed", 16)
    rows = [layout.batches(orders, step)[0]["packing"].shape[1] for step in range(batch_size_module.SEEN)]
    assert len(set(rows)) > 1
    batch = Steps(run, 10**9).fullest(256, 2)
    assert batch["packing"].shape == (*[2] * (seeds - 1), 16, max(rows), 16)


def test_where_the_memory_is_not_known(tiny_corpus, monkeypatch):
    """It is said."""
    monkeypatch.setattr(batch_size_module, "device_bytes", lambda: None)
    with pytest.raises(ValueError, match="does not say how much memory it has"):
        next(find_batch_size(pretraining(tiny_corpus)))


def test_only_where_something_can_be_found(tiny_corpus):
    """A tool that trains many experiments does not take the flag for one of them."""

    def config() -> Experiment:
        return pretraining(tiny_corpus)

    with pytest.raises(ValueError, match="--find-batch-size is for an experiment file alone"):
        parse(config, ["--workdir", "w", "--find-batch-size"])

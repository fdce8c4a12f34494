"""Two phases in one command: what the second takes from the first, one schedule, and interruptions in either."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax import phases as phases_module
from bert_jax import train as train_module
from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.phases import TwoPhases, train_phases
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text import tokenizer as tokenizers
from bert_jax.training.checkpoint import restore_params, restore_part
from bert_jax.training.log import read_metrics
from bert_jax.training.optim import BertAdam

pytestmark = pytest.mark.xdist_group("phases")  # the fixtures are runs: made once, in one process

STEPS = (6, 4)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpora(tiny_corpus, tmp_path_factory):
    """Rows of 16 and of 32 with the vocabulary of the tiny corpus."""
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("lengths")
    lines = [" ".join(rng.choice(["al", "am", "an"], 7)) for _ in range(60)]
    documents = [Document(lines[i : i + 10], sentences=True) for i in range(0, 60, 10)]
    tokenizer = tokenizers.load(tiny_corpus / "tokenizer")
    for length in (16, 32):
        config = CorpusConfig(max_seq_length=length, dupe_factor=4)
        build_corpus(documents[:5], tokenizer, folder / str(length), config, valid=documents[5:], workers=1)
    return folder


@pytest.fixture(scope="module")
def phases(corpora):
    optimizer = BertAdam(learning_rate=1e-2, warmup=2)
    first = Experiment(
        task=Pretraining(corpora / "16", valid_limit=8),
        learner=Multitask(
            Bert(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=16, init_stddev=0.1),
            {"mlm": Mlm(max_predictions=3)},
        ),
        optimizer=optimizer,
        steps=STEPS[0],
        batch_size=8,
        eval_batch_size=8,
        log_every=1,
        eval_every=3,
        checkpoint_every=2,
    )
    second = dataclasses.replace(
        first,
        task=Pretraining(corpora / "32", valid_limit=8),
        learner=Multitask(None, {"mlm": Mlm(max_predictions=5)}),
        init_from=Path("phase-1"),
        init_optimizer=True,
        extend_positions="copied",
        steps=STEPS[1],
    )
    return TwoPhases(first, second, joint_schedule=True)


@pytest.fixture(scope="module")
def straight(phases, tmp_path_factory):
    """The folder of both phases, undisturbed."""
    workdir = tmp_path_factory.mktemp("phases") / "run"
    train_phases(phases, workdir)
    return workdir


def test_one_schedule_one_optimizer_one_log(phases, straight):
    """Learning rates are those of ten steps in one go; the optimizer's count goes on; the joined log counts through."""
    rate = BertAdam(learning_rate=1e-2, warmup=2).schedule(sum(STEPS))
    entries = [entry for entry in read_metrics(straight / "metrics.jsonl") if "train/loss" in entry]
    assert [entry["step"] for entry in entries] == list(range(1, 11))
    np.testing.assert_allclose([entry["train/learning_rate"] for entry in entries], [float(rate(s)) for s in range(10)])
    assert int(restore_part(straight / "phase-2/checkpoints", "opt_state")["1"]["count"]) == 10
    assert int(restore_part(straight / "phase-2/checkpoints", "opt_state")["3"]["count"]) == STEPS[1]
    assert (straight / "curves.png").exists()
    before, after = (restore_params(straight / name / "checkpoints") for name in ("phase-1", "phase-2"))
    tables = [tree["encoder"]["embeddings"]["positions"]["table"] for tree in (before, after)]
    assert [len(table) for table in tables] == [16, 32]


def test_a_new_optimizer_and_schedule(phases, tmp_path):
    """The other choice: the count starts again, and so does the warm-up."""
    second = dataclasses.replace(phases.phase_2, init_optimizer=False)
    train_phases(TwoPhases(phases.phase_1, second), tmp_path / "run")
    assert int(restore_part(tmp_path / "run/phase-2/checkpoints", "opt_state")["1"]["count"]) == STEPS[1]
    rates = [entry.get("train/learning_rate") for entry in read_metrics(tmp_path / "run/metrics.jsonl")]
    rates = [rate for rate in rates if rate is not None]
    assert rates[0] == rates[STEPS[0]] == 0.0


@pytest.mark.parametrize("updates", [3, 8], ids=["in-phase-1", "in-phase-2"])
def test_interrupted_in_either_phase(phases, straight, tmp_path, monkeypatch, updates):
    """As by Ctrl-C before an update of the first and of the second phase: the same call continues, to the same bits."""
    whole, calls = train_module.make_train_step, []

    def killed(*args, **kwargs):
        step = whole(*args, **kwargs)

        def until(state, batch):
            calls.append(1)
            if len(calls) > updates:
                raise KeyboardInterrupt
            return step(state, batch)

        return until

    workdir = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "make_train_step", killed)
        train_phases(phases, workdir)
    assert (workdir / "phase-2").exists() == (updates > STEPS[0])
    if updates > STEPS[0]:  # phase 1 is complete: it must not be trained, nor evaluated, again
        once = phases_module.train
        with monkeypatch.context() as patch:
            patch.setattr(
                phases_module, "train", lambda experiment, folder: folder.name == "phase-2" and once(experiment, folder)
            )
            train_phases(phases, workdir)
    else:
        train_phases(phases, workdir)
    for name in ("phase-1", "phase-2"):
        got, wanted = (restore_params(folder / name / "checkpoints") for folder in (workdir, straight))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), got, wanted)


def test_a_second_phase_that_cannot_be_is_found_before_the_first(phases, corpora, tmp_path):
    """Rows too long, files that are not there, steps that do not fit: nothing is written, and no step is made."""

    def refused(match, **changes):
        second = dataclasses.replace(phases.phase_2, **changes)
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            train_phases(TwoPhases(phases.phase_1, second), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    refused("rows of 32 tokens, but the encoder takes 16", extend_positions=None)
    refused("nowhere", task=Pretraining(corpora / "nowhere"))
    refused("warm-up of 9 steps leaves nothing of 4", optimizer=BertAdam(warmup=9))
    refused("the checkpoint to start from has another shape", learner=Multitask(
        Bert(num_layers=1, width=32, num_heads=2, mlp_width=16, max_length=32), {"mlm": Mlm()}
    ))  # fmt: skip


def test_choices_that_exclude_each_other(phases):
    """A joint schedule is over steps and of one optimizer; two phases are one run."""
    first, second = phases.phase_1, phases.phase_2
    with pytest.raises(ValueError, match="a joint schedule is of one optimizer"):
        TwoPhases(first, dataclasses.replace(second, optimizer=BertAdam()), joint_schedule=True)
    with pytest.raises(ValueError, match="give steps, not epochs"):
        TwoPhases(dataclasses.replace(first, steps=0, epochs=1.0), second, joint_schedule=True)
    with pytest.raises(ValueError, match="phase_2 has 2 seeds"):
        TwoPhases(first, dataclasses.replace(second, seeds=2))


def test_the_workdir_of_another_run(phases, straight):
    """The folder of a single run is refused, and so is one whose first phase was another."""
    with pytest.raises(ValueError, match="is the workdir of a single run"):
        train_phases(phases, straight / "phase-1")
    other = TwoPhases(dataclasses.replace(phases.phase_1, seed=1), phases.phase_2, joint_schedule=True)
    with pytest.raises(ValueError, match=r"holds another experiment(.|\n)*seed: 12345 there, 1 now"):
        train_phases(other, straight)


@pytest.mark.parametrize("name", ["pretrain_two_phases", "pretrain_lamb"])
def test_the_experiment_files(name, corpora, tmp_path):
    """Their flags reach both phases: a missing second corpus ends the command with one line, before any training."""
    command = [sys.executable, ROOT / "experiments" / f"{name}.py", "--workdir", tmp_path / "run"]
    flags = ["--phase-1.corpus", corpora / "16", "--phase-2.corpus", corpora / "nowhere", "--phase-1.batch-size", "8",
             "--phase-1.accumulate", "1"]  # fmt: skip
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1 and "nowhere" in done.stderr and done.stderr.startswith("error: "), done.stderr
    assert not (tmp_path / "run").exists()

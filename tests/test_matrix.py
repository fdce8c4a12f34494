"""Variants x tasks x seeds in one command: what is trained where, what is not trained again, what the table says."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats

from bert_jax import matrix as matrix_module
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.matrix import Cell, Claim, Matrix, Task, difference, mean_and_std, run_matrix, verdict, write_tables
from bert_jax.models.bert import Bert
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.pretrained import load_experiment
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.training.optim import BertAdam

pytestmark = pytest.mark.xdist_group("matrix")  # the fixtures are runs: made once, in one process

SEEDS = (12345, 12346)


@pytest.fixture(scope="module")
def pairs(tiny_corpus, tmp_path_factory):
    """Two variants and one task, a few steps of each."""
    folder = tmp_path_factory.mktemp("topics")
    for name, count in (("train", 32), ("valid", 8)):
        lines = [f"{'ab'[i % 2]}\t{'ab'[i % 2]}l {'ab'[i % 2]}m" for i in range(count)]
        (folder / f"{name}.tsv").write_text("label\ttext\n" + "\n".join(lines) + "\n")

    def pretraining(seed):  # variants of one program, which is compiled once
        encoder = Bert(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=32)
        return Experiment(
            Pretraining(tiny_corpus, valid_limit=8), Multitask(encoder, {"mlm": Mlm()}), steps=2, batch_size=8,
            eval_batch_size=8, seed=seed,
        )  # fmt: skip

    def fine_tuning(init_from):
        return Experiment(
            Classification(Tables(str(folder / "train.tsv"), (str(folder / "valid.tsv"),)), 8, name="topics"),
            Multitask(None, {"classify": Classify()}), BertAdam(1e-3), steps=2, batch_size=8, eval_batch_size=8,
            init_from=init_from, best_metric="valid/classify/accuracy",
        )  # fmt: skip

    return Matrix(
        {"even": pretraining(1), "odd": pretraining(2)},
        {"topics": Task(fine_tuning, {"odd": 92.5})},
        (Claim("odd", ">", "even", "a paper"),),
        seeds=2,
    )


def folders_of(workdir):
    """All that was trained, as its path."""
    return sorted(str(path.parent.relative_to(workdir)) for path in workdir.rglob("result.json"))


EVERYTHING = sorted(
    f"{folder}/{name}{run}"
    for name in ("even", "odd")
    for folder, runs in (("pretrain", [""]), ("topics", [f"/seed-{seed}" for seed in SEEDS]))
    for run in runs
)


def test_interrupted_and_continued(pairs, tmp_path, monkeypatch):
    """Every variant is pre-trained and fine-tuned from its own weights with every seed; after an interruption what is
    finished is not trained again; then the table is complete, and a third start trains nothing."""
    trained, train = [], matrix_module.train

    def counted(experiment, workdir):
        if len(trained) == 3:
            raise SystemExit(75)
        trained.append(str(workdir.relative_to(tmp_path)))
        train(experiment, workdir)

    monkeypatch.setattr(matrix_module, "train", counted)
    with pytest.raises(SystemExit):
        run_matrix(pairs, tmp_path)
    assert trained == ["pretrain/even", "topics/even", "pretrain/odd"]
    assert not (tmp_path / "table.md").exists()
    monkeypatch.setattr(
        matrix_module, "train", lambda e, w: (trained.append(str(w.relative_to(tmp_path))), train(e, w))
    )
    run_matrix(pairs, tmp_path)
    assert trained[3:] == ["topics/odd"]
    run_matrix(pairs, tmp_path)
    assert len(trained) == 4 and folders_of(tmp_path) == EVERYTHING
    assert load_experiment(tmp_path / "topics/even/seed-12346").init_from == tmp_path / "pretrain/even"

    table = (tmp_path / "table.md").read_text()
    results = [json.loads((tmp_path / f"topics/odd/seed-{seed}/result.json").read_text()) for seed in SEEDS]
    mean, std = mean_and_std([100 * result["metrics"]["valid/classify/accuracy"] for result in results])
    assert f"| odd | {mean:.1f} ± {std:.1f} (92.5) |" in table
    assert "odd > even | a paper | topics | " in table.replace("| odd >", "odd >")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")

    other = dataclasses.replace(pairs.variants["odd"], steps=3)
    with pytest.raises(ValueError, match=r"(?s)pretrain/odd holds another experiment; .* steps: 2 there, 3 now"):
        run_matrix(dataclasses.replace(pairs, variants=dict(pairs.variants) | {"odd": other}), tmp_path)


# ---- without training ------------------------------------------------------------------------------------------------


def pretend(monkeypatch, accuracy=lambda workdir, seed: 0.5, seen=None):
    """In place of training: every run has the results that are given, at once."""

    def train(experiment, workdir):
        if seen is not None:
            seen.append(workdir.name)
        for folder in Cell(experiment, workdir).folders:
            folder.mkdir(parents=True)
            seed = int(folder.name.removeprefix("seed-")) if experiment.seeds > 1 else experiment.seed
            value = accuracy(workdir, seed)
            result = {
                "seed": seed, "step": 2, "parameters": 1234567,
                "metrics": {"valid/classify/accuracy": value} if experiment.init_from else {"valid/mlm/loss": 3.25},
                "degenerate": "answers one class everywhere" if value == 0.25 else None,
            }  # fmt: skip
            (folder / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(matrix_module, "train", train)


def test_the_table(pairs, tmp_path, monkeypatch):
    """Mean and standard deviation (n - 1) in percent, the published number, the claim with its difference and spread,
    the pre-trainings, degenerate runs by name; the same in full precision as CSV."""
    values = {("odd", 12345): 0.9, ("odd", 12346): 0.94, ("even", 12345): 0.8, ("even", 12346): 0.25}
    pretend(monkeypatch, lambda workdir, seed: values.get((workdir.name, seed), 0.5))
    run_matrix(pairs, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "|  | topics accuracy |" in text
    assert "| even | 52.5 ± 38.9 |" in text and "| odd | 92.0 ± 2.8 (92.5) |" in text
    assert "| odd > even | a paper | topics | not decided: +39.5 ± 341.8 |" in text
    assert "| odd | 1.23 | 2 | 3.2500 |" in text
    assert "- topics, even, seed 12346: answers one class everywhere" in text
    even, odd = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert even == {
        "variant": "even", "task": "topics", "metric": "valid/classify/accuracy", "mean": "0.525000",
        "std": f"{0.55 / math.sqrt(2):.6f}", "published": "", "seeds": "0.800000 0.250000",
    }  # fmt: skip
    assert odd["published"] == "92.5"


def test_some_variants_only(pairs, tmp_path, monkeypatch):
    """For several processes: each trains its own, and the table has what is finished by then."""
    seen = []
    pretend(monkeypatch, seen=seen)
    run_matrix(pairs, tmp_path, only=["odd"])
    assert seen == ["odd", "odd"]
    text = (tmp_path / "table.md").read_text()
    assert "| even | - |" in text and "claim" not in text
    run_matrix(pairs, tmp_path, only=["even"])
    assert seen == ["odd", "odd", "even", "even"] and "| even | - |" not in (tmp_path / "table.md").read_text()
    with pytest.raises(ValueError, match="no variants tanh; there are even, odd"):
        run_matrix(pairs, tmp_path, only=["tanh"])


def test_a_diverged_pre_training_ends_its_variant_only(pairs, tmp_path, monkeypatch):
    """Nothing is fine-tuned from it, the others go on, and its entry is empty."""
    seen = []
    pretend(monkeypatch, seen=seen)
    pretended = matrix_module.train

    def train(experiment, workdir):
        if workdir == tmp_path / "pretrain/even":
            raise FloatingPointError("loss is nan at step 1")
        pretended(experiment, workdir)

    monkeypatch.setattr(matrix_module, "train", train)
    run_matrix(pairs, tmp_path)
    assert seen == ["odd", "odd"]
    text = (tmp_path / "table.md").read_text()
    assert "| even | - |" in text and "| odd | 50.0 ± 0.0 (92.5) |" in text


def test_bad_input_is_found_before_training(pairs, tmp_path, monkeypatch):
    """A file that is missing for the last step, a task without a metric, a claim about nothing."""
    seen = []
    pretend(monkeypatch, seen=seen)
    fine_tuning = pairs.tasks["topics"].fine_tuning

    def missing(init_from):
        experiment = fine_tuning(init_from)
        data = dataclasses.replace(experiment.task.data, train=str(tmp_path / "missing.tsv"))
        return dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, data=data))

    with pytest.raises(FileNotFoundError, match=r"missing\.tsv"):
        run_matrix(dataclasses.replace(pairs, tasks={"topics": Task(missing)}), tmp_path)
    silent = Task(lambda init_from: dataclasses.replace(fine_tuning(init_from), best_metric=""))
    with pytest.raises(ValueError, match="the fine-tuning of topics has no best_metric"):
        run_matrix(dataclasses.replace(pairs, tasks={"topics": silent}), tmp_path)
    with pytest.raises(ValueError, match="claims about tanh; the variants are even, odd"):
        dataclasses.replace(pairs, claims=(Claim("odd", ">", "tanh", "nobody"),))
    with pytest.raises(ValueError, match="a task cannot be called 'pretrain'"):
        dataclasses.replace(pairs, tasks={"pretrain": pairs.tasks["topics"]})
    assert not seen and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("relation", "second", "said"),
    [
        # Beside 0.90, 0.92, 0.94: their mean's deviation is 2 / sqrt(3) points, Student's t of 2 degrees 4.303.
        (">", (0.86, 0.86, 0.86), "holds: +6.0 ± 5.0"),
        (">", (0.88, 0.88, 0.88), "not decided: +4.0 ± 5.0"),
        (">", (0.98, 0.98, 0.98), "the reverse holds: -6.0 ± 5.0"),
        ("=", (0.88, 0.88, 0.88), "not contradicted: +4.0 ± 5.0"),
        ("=", (0.98, 0.98, 0.98), "does not hold: -6.0 ± 5.0"),
        (">", (0.5,), "not decided: one seed, or a run that diverged"),
        (">", (0.5, math.nan, 0.5), "not decided: one seed, or a run that diverged"),
    ],
)
def test_verdicts(relation, second, said):
    """A difference counts where its interval leaves out 0; one seed has no interval."""
    assert verdict(Claim("a", relation, "b", ""), (0.90, 0.92, 0.94), second) == said


def test_the_interval_is_welchs():
    """scipy's, for unequal variances and numbers."""
    first, second = (0.87, 0.90, 0.93, 0.88), (0.80, 0.89, 0.85)
    mean, half = difference(first, second)
    want = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose((mean - half, mean + half), want, rtol=1e-9)
    assert difference((0.5, 0.5), (0.25, 0.25)) == (0.25, 0.0)


def test_of_losses_the_smaller_is_better():
    """In the verdict as in the sign of the difference."""
    said = verdict(Claim("a", ">", "b", ""), (2.0, 2.0), (2.5, 2.5), less_is_better=True)
    assert said == "holds: +0.5000 ± 0.0000"


def test_a_table_of_nothing(pairs, tmp_path):
    """Before the first result there is a table of dashes and no picture."""
    text = write_tables(pairs, tmp_path)
    assert "| even | - |" in text and "| odd | - (92.5) |" in text
    assert not (tmp_path / "table.png").exists()
    assert np.isnan(mean_and_std([0.5])[1])

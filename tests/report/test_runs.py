"""Runs are found wherever they are, their seeds come together, and what is not finished is said and not fatal."""

import json

import pytest

from bert_jax.report.runs import collect, differing, model_of
from tests.report.made_up import write_config, write_run, write_seeds

ACCURACY = {"classify/loss": 0.5, "classify/accuracy": 0.8}


def test_seeds_of_a_folder_are_one_row(tmp_path):
    """Mean, sample deviation (n - 1) and best in percent, in the order of the seeds; a loss is best when it is low."""
    write_seeds(tmp_path / "minilm", [0.90, 0.92, 0.88])
    (row,), left_out = collect([tmp_path])
    assert (row.task, row.variant, row.evaluation, left_out) == ("SST-2", "minilm", "valid", [])
    assert [run.seed for run in row.runs] == [12345, 12346, 12347]
    assert list(row.metrics) == ["accuracy", "loss"]
    summary = row.summary("accuracy")
    assert summary.values == pytest.approx((90, 92, 88))
    assert (summary.mean, summary.std, summary.best) == pytest.approx((90, 2, 92))  # not 1.63, which is that of n
    assert row.summary("loss").best == pytest.approx(0.08)
    assert row.baseline("accuracy") == 50 and row.baseline("loss") is None


def test_single_runs_come_together_by_their_experiment(tmp_path):
    """Runs that differ in nothing but the seed are one variant; one seed has no deviation; a twin counts once."""
    for name, rate in (("a", 5e-5), ("b", 1e-4)):
        for seed in (1, 2):
            folder = tmp_path / f"deep/sst2-{name}-{seed}"
            write_run(folder, ACCURACY, seed=seed, optimizer__learning_rate=rate)
    write_run(tmp_path / "deep/sst2-c", ACCURACY, batch_size=16)
    write_run(tmp_path / "again", ACCURACY, batch_size=16, keep=7)
    rows, left_out = collect([tmp_path / "again", tmp_path / "deep"])
    assert [(row.variant, len(row.runs)) for row in rows] == [("again", 1), ("deep/sst2-a", 2), ("deep/sst2-b", 2)]
    assert rows[0].summary("accuracy").std is None
    (twin,) = left_out
    assert twin.folder.name == "sst2-c" and "same seed as" in twin.reason
    assert len(collect([tmp_path / "deep", tmp_path / "deep/sst2-a-1"])[0][0].runs) == 2  # given twice


def test_variants_of_several_tasks(tmp_path):
    """runs/minilm/CoLA is variant minilm of CoLA; the tasks are in GLUE's order and have their own metric first."""
    for variant in ("minilm", "scratch"):
        for task, metric in (("MRPC", "f1"), ("CoLA", "matthews"), ("mine", "f1")):
            metrics = ACCURACY | {f"classify/{metric}": 0.6}
            write_run(tmp_path / variant / task.lower(), metrics, name=task, init_from=f"models/{variant}")
    rows, _ = collect([tmp_path])
    assert [(row.task, row.variant, row.official) for row in rows] == [
        (task, variant, metric)
        for task, metric in (("CoLA", "matthews"), ("MRPC", "f1"), ("mine", "accuracy"))
        for variant in ("minilm", "scratch")
    ]
    assert [model_of(row.runs[0]) for row in rows[:2]] == ["minilm", "scratch"]


def test_several_held_out_sets(tmp_path):
    """One row each; the mismatched set of MNLI is a task of its own, as in the paper."""
    folder = write_run(tmp_path / "mnli", {}, name="MNLI")
    result = json.loads((folder / "result.json").read_text())
    result["metrics"] = {f"dev_{kind}/classify/accuracy": 0.8 for kind in ("matched", "mismatched")}
    (folder / "result.json").write_text(json.dumps(result))
    assert [(row.task, row.evaluation) for row in collect([tmp_path])[0]] == [
        ("MNLI", "dev_matched"),
        ("MNLI-mm", "dev_mismatched"),
    ]


def test_degenerate_seeds_count(tmp_path):
    """They are in the mean; the mean without them is there, too; one without a number is in neither."""
    folder = write_seeds(tmp_path / "a", [0.9, 0.5, 0.8], degenerate={1: "answers one class everywhere", 2: "diverged"})
    broken = json.loads((folder / "seed-12347/result.json").read_text())
    broken["metrics"] = dict.fromkeys(broken["metrics"])
    (folder / "seed-12347/result.json").write_text(json.dumps(broken))
    (row,), _ = collect([tmp_path])
    assert row.degenerate == {12346: "answers one class everywhere", 12347: "diverged"}
    assert row.summary("accuracy").values == pytest.approx((90, 50))
    assert row.summary("accuracy", degenerate=False).values == pytest.approx((90,))


def test_what_is_not_finished_is_listed(tmp_path):
    """Each with its reason; folders of something else are none of ours."""
    write_run(tmp_path / "whole", ACCURACY)
    (write_config(tmp_path / "running") / "metrics.jsonl").write_text('{"step": 1200}\n')
    write_config(tmp_path / "new")
    (write_config(tmp_path / "torn") / "result.json").write_text('{"name": ')
    (write_config(tmp_path / "old") / "result.json").write_text('{"mlm_accuracy": 0.3}')
    (write_config(tmp_path / "odd") / "result.json").write_text("[]")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "bert"}')
    write_config(tmp_path / "seeds", seeds=2, seed=5)
    write_run(tmp_path / "seeds/seed-5", ACCURACY, seed=5)
    rows, left_out = collect([tmp_path])
    assert {row.variant for row in rows} == {"whole", "seeds"}
    reasons = {str(item.folder.relative_to(tmp_path)): item.reason for item in left_out}
    assert reasons.pop("torn").startswith("result.json is not JSON")
    assert reasons.pop("broken").startswith("config.json is not JSON")
    assert (
        reasons.pop("odd")
        == reasons["old"]
        == ("result.json has no baselines, degenerate, eval_examples, metrics, name, seed, step, train_examples")
    )
    del reasons["old"]
    assert reasons == {
        "running": "unfinished: no result.json, logged up to step 1,200",
        "new": "unfinished: no result.json, not one step is logged",
        "seeds/seed-6": "not there, though seeds is of 2 seeds",
    }


def test_bad_paths(tmp_path):
    """A name that was mistyped and a folder without runs are errors."""
    with pytest.raises(FileNotFoundError, match="no is no folder"):
        collect([tmp_path / "no"])
    with pytest.raises(ValueError, match="no workdir of a run here or below"):
        collect([tmp_path])


def test_settings_that_differ(tmp_path):
    """Of the same task everything, of other tasks what is not about their data; never the seed or what is free."""
    write_run(tmp_path / "a", ACCURACY, learner__objectives__classify__dropout=0.2, keep=5)
    write_run(tmp_path / "b", ACCURACY, task__data__train_limit=100)
    write_run(tmp_path / "c", ACCURACY, name="other", task__max_length=512, optimizer__warmup=0.2)
    rows, _ = collect([tmp_path])
    names = {
        "learner.objectives.classify.dropout": (0.2, 0.1, None),
        "task.data.train_limit": (0, 100, None),
        "optimizer.warmup": (0.1, 0.1, 0.2),
    }
    for i, found in enumerate(differing(rows).values()):
        assert found == {name: values[i] for name, values in names.items() if values[i] is not None}
    assert all(row.folder == tmp_path / row.variant for row in rows)


def test_an_encoder_that_was_given_is_named_once(tmp_path):
    """Its sizes come with `init_from`, which has a column; dropout is a choice of the run."""
    for name, width in (("a", 128), ("b", 384)):
        encoder = {"class": "bert_jax.models.bert.Bert", "width": width, "dropout": width / 1000}
        write_run(tmp_path / name, ACCURACY, init_from=name, learner__encoder=encoder, eval_every=width)
    rows, _ = collect([tmp_path])
    assert list(differing(rows)[rows[0]]) == ["learner.encoder.dropout", "init_from"]

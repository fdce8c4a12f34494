"""Two variants compared from their predictions files: metrics computed anew, seeds and examples paired."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from bert_jax.evaluate import write_rows
from bert_jax.report.comparison import compare_variants, grid
from bert_jax.report.predictions import measured, read_predictions
from bert_jax.report.runs import collect
from bert_jax.tasks.entities import entity_scores
from bert_jax.tasks.metrics import LABEL_METRICS
from tests.report.made_up import answers, guesses, write_lines, write_run, write_seeds

LABELS = np.random.default_rng(0).integers(0, 2, 120)


def variant(folder, right, first=1, seeds=3, labels=LABELS, metric="accuracy", **options):
    """Seeds that are right so often, whose results are those of their predictions."""
    rng = np.random.default_rng([first, round(100 * right)])
    found = [guesses(rng, labels, right) for _ in range(seeds)]
    score = (lambda one: f1_score(labels, one)) if metric == "f1" else (lambda one: (labels == one).mean())
    lines = [answers(labels, one) for one in found]
    write_seeds(folder, [float((one == labels).mean()) for one in found], first=first, lines=lines, **options)
    return [score(one) for one in found]


def test_a_variant_against_another(tmp_path):
    """The means are those of the predictions, the difference has its sign, and the tests agree that it is one."""
    good, bad = (variant(tmp_path / name, right) for name, right in (("good", 0.95), ("bad", 0.6)))
    rows, _ = collect([tmp_path])
    (pair,) = compare_variants(rows, "good", "bad", resamples=999)
    assert pair.found.scores == pytest.approx(np.array([good, bad]))
    assert pair.found.difference == pytest.approx(np.mean(good) - np.mean(bad))
    assert (pair.found.p_examples, pair.found.p_seeds, pair.examples, pair.note) == (0.002, 0.25, 120, "")
    table = grid([pair], "good", "bad", 999, 0)
    assert table.rows[0][:5] == ("SST-2", "accuracy", f"{100 * np.mean(good):.2f}", f"{100 * np.mean(bad):.2f}",
                                 f"{100 * (np.mean(good) - np.mean(bad)):+.2f}")  # fmt: skip
    for words in ("paired bootstrap", "approximate randomization", "999 draws", "seed 0", "below 0.25 with 3 seeds"):
        assert words in table.notes[0]
    assert "not corrected" not in table.notes[0]


def test_the_same_variant_is_no_different(tmp_path):
    """Found by its folder as well as by its name; p = 1."""
    for name in "ab":
        variant(tmp_path / name, 0.8)
    rows, _ = collect([tmp_path])
    (pair,) = compare_variants(rows, "a", str(tmp_path / "b"), resamples=99)
    assert (pair.found.difference, pair.found.p_examples, pair.found.p_seeds) == (0, 1, 1)


def test_seeds_are_paired(tmp_path):
    """The same seed with the same seed, the others are left out and said; without a common one, in order."""
    variant(tmp_path / "a", 0.9, first=1)
    variant(tmp_path / "b", 0.9, first=2)
    variant(tmp_path / "c", 0.9, first=7, seeds=2)
    rows, _ = collect([tmp_path])
    (pair,) = compare_variants(rows, "a", "b", resamples=99)
    assert pair.found.scores.shape == (2, 2) and pair.note.startswith("2 runs without a partner")
    (pair,) = compare_variants(rows, "a", "c", resamples=99)
    assert pair.found.scores.shape == (2, 2) and pair.note == "no seed in common: paired in order"


def test_what_cannot_be_compared_is_said(tmp_path):
    """Other examples, no predictions, predictions of another checkpoint, a degenerate seed: in the note, not fatal."""
    variant(tmp_path / "a", 0.9)
    variant(tmp_path / "other", 0.9, labels=1 - LABELS)
    write_seeds(tmp_path / "none", [0.9, 0.9, 0.9], first=1)
    variant(tmp_path / "stale", 0.9, degenerate={1: "fell apart"})
    write_lines(tmp_path / "stale/seed-1", answers(LABELS, LABELS))
    rows, _ = collect([tmp_path])
    (pair,) = compare_variants(rows, "a", "other", resamples=99)
    assert pair.found is None and "its held-out examples are not those of" in pair.note
    assert grid([pair], "a", "other", 99, 0).rows[0][2:-1] == ("-",) * 8
    (pair,) = compare_variants(rows, "a", "none", resamples=99)
    assert pair.found is None and "predictions-valid.tsv" in pair.note
    (pair,) = compare_variants(rows, "a", "stale", resamples=99)
    assert pair.found and "seed-1 give 100.00, its results say" in pair.note and "another checkpoint" in pair.note
    assert "degenerate, and counted: seed 2 of stale" in pair.note


def test_bad_names(tmp_path):
    """An unknown variant names those there are; two variants below one folder are not one."""
    for name in ("x/a", "x/b", "y"):
        write_run(tmp_path / name, {"classify/accuracy": 0.5}, batch_size=len(name))
    write_run(tmp_path / "z", {"classify/accuracy": 0.5}, name="other")
    write_run(tmp_path / "x/b", {"classify/accuracy": 0.5}, batch_size=64)
    rows, _ = collect([tmp_path])
    with pytest.raises(ValueError, match="no variant 'q': there are x/a, x/b, y, z"):
        compare_variants(rows, "q", "y")
    with pytest.raises(ValueError, match="stands for two variants of SST-2: x/a and x/b"):
        compare_variants(rows, str(tmp_path / "x"), "y")
    with pytest.raises(ValueError, match=r"y and z have no task in common: SST-2 \(valid\); other \(valid\)"):
        compare_variants(rows, "y", "z")


def measure(lines, metric, *separator):
    values, of = measured(lines, metric, *separator)
    return float(of(values))


def test_metrics_from_predictions(tmp_path):
    """The classes are in the order of their columns: f1 is that of the second, whatever it is called."""
    found = guesses(np.random.default_rng(3), LABELS, 0.7)
    folder = write_run(tmp_path, {"classify/f1": 0.5}, lines=answers(LABELS, found, ("yes", "no")))
    (row,), _ = collect([folder])
    lines = read_predictions(row.runs[0], "valid")
    assert measure(lines, "f1") == pytest.approx(f1_score(LABELS, found))
    assert measure(lines, "accuracy") == pytest.approx((LABELS == found).mean())


def test_metrics_of_other_tasks():
    """Numbers, tags and questions; what the file cannot tell is an error and not a wrong number."""
    numbers = [{"label": a, "prediction": b} for a, b in (("1", "10"), ("2", "30"), ("3", "20"))]
    assert measure(numbers, "spearman") == pytest.approx(0.5)
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    found = [["B-PER", "O", "O"], ["B-LOC", "B-PER"]]
    tags = [
        {"sentence": str(i), "word": "w", "tag": a, "prediction": b}
        for i, pair in enumerate(zip(gold, found, strict=True))
        for a, b in zip(*pair, strict=True)
    ]
    assert measure(tags, "f1") == pytest.approx(entity_scores(gold, found)["f1"]) == pytest.approx(0.4)
    assert measure(tags, "accuracy") == pytest.approx(3 / 5)
    questions = [{"id": str(i), "label": "a", "prediction": "a b", "f1": str(i / 2)} for i in range(3)]
    assert measure(questions, "f1") == 0.5
    with pytest.raises(ValueError, match="exact_match cannot be computed from the predictions, which have id, label"):
        measured(questions, "exact_match")
    with pytest.raises(ValueError, match="accuracy cannot be computed"):
        measured(questions, "accuracy")
    labels = [{"label": "a|b", "prediction": "", "p(a)": "0.4", "p(b)": "0.3"}]
    for metric in ("macro_f1", "micro_f1"):
        with pytest.raises(ValueError, match=f"{metric} cannot be computed"):
            measured(labels, metric)


def labelled(wanted, found, names, separator="|"):
    """The lines of a multi-label task's predictions file."""
    return [
        {"label": separator.join(names[label]), "prediction": separator.join(names[answer])}
        | {f"p({name})": float(share) for name, share in zip(names, answer, strict=True)}
        for label, answer in zip(wanted, found, strict=True)
    ]


@pytest.mark.parametrize("separator", ["|", ", "])
def test_metrics_of_labels(separator):
    """Those of scikit-learn: lines without a label count, and a label that does not occur has an F1 of 0."""
    rng, names = np.random.default_rng(0), np.array(["a", "b b", "7", "never"])
    wanted, found = (rng.random((30, 4)) < share for share in ([0.6, 0.3, 0.1, 0], [0.5, 0.4, 0.2, 0]))
    assert not wanted.any(axis=1).all() and not found.any(axis=1).all()
    lines = labelled(wanted, found, names, separator)
    for metric, of in LABEL_METRICS.items():
        assert measure(lines, metric, separator) == pytest.approx(of(wanted, found)), metric
    with pytest.raises(ValueError, match="micro_f1 cannot be computed: 'c' is none of a, b b, 7, never"):
        measured([lines[0] | {"label": "c"}], "micro_f1", separator)


def test_variants_of_a_task_with_labels(tmp_path):
    """By the metric of their experiment, seed by seed and example by example, with the separator of the run."""
    rng, names = np.random.default_rng(0), np.array(list("abc"))
    wanted, scores = rng.random((60, 3)) < 0.4, {}
    for variant, wrong in (("good", 0.05), ("bad", 0.4)):
        for seed in (1, 2):
            found = wanted ^ (rng.random(wanted.shape) < wrong)
            metrics = {f"multilabel/{name}": of(wanted, found) for name, of in LABEL_METRICS.items()}
            options = {"task__separator": ";", "best_metric": "valid/multilabel/micro_f1"}
            folder = write_run(tmp_path / f"{variant}-{seed}", metrics, seed=seed, init_from=variant, **options)
            write_rows(folder / "predictions-valid.tsv", labelled(wanted, found, names, ";"))
            scores.setdefault(variant, []).append(metrics)
    rows, _ = collect([tmp_path])
    pairs = compare_variants(rows, "good", "bad", ("micro_f1", "macro_f1"), resamples=199)
    assert [(pair.metric, pair.examples, pair.note) for pair in pairs] == [("micro_f1", 60, ""), ("macro_f1", 60, "")]
    for pair in pairs:
        own = [[seed[f"multilabel/{pair.metric}"] for seed in scores[name]] for name in ("good", "bad")]
        assert pair.found.scores == pytest.approx(np.array(own))
        assert pair.found.interval[0] > 0 and pair.found.p_examples == 0.01

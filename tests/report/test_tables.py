"""The tables: exact content, published results with their certainty, and a CSV that is read back."""

import csv
import io

import pytest

from bert_jax.report.runs import LeftOut, collect
from bert_jax.report.tables import csv_table, degenerate, known, left_out, markdown, results, settings
from tests.report.made_up import write_run, write_seeds

REASON = "answers one class everywhere"


@pytest.fixture
def rows(tmp_path):
    write_seeds(tmp_path / "minilm", [0.90, 0.50, 0.91], degenerate={1: REASON})
    write_run(tmp_path / "scratch", {"classify/loss": 0.5, "classify/accuracy": 0.8}, random_weights=True, batch_size=8)
    return collect([tmp_path])[0]


def test_results(rows):
    """A line a variant with all its numbers; both means where a seed is degenerate; the paper's result beside."""
    beside = (
        "[93.5 BERT base, test (Devlin et al. 2018, table 1; from a transcription)](https://arxiv.org/abs/1810.04805)<br>"
        "[92.7 BERT base, dev (Devlin et al. 2018, table 5; from a transcription)](https://arxiv.org/abs/1810.04805)"
    )
    lines = markdown(results(rows)).splitlines()
    assert lines[:6] == [
        "## Results",
        "",
        "| task | variant | metric | mean ± deviation | best | every seed | baseline | published |",
        "| --- | --- | --- | --- | ---: | --- | ---: | --- |",
        "| SST-2 | minilm | accuracy | 77.00 ± 23.39 (3 seeds); without 1 degenerate: 90.50 ± 0.71 (2 seeds) | 91.00 | "
        rf"90.00, 50.00\*, 91.00 | 50.00 | {beside} |",
        f"| SST-2 | scratch | accuracy | 80.00 (1 seed) | 80.00 | 80.00 | 50.00 | {beside} |",
    ]
    assert "sample standard deviation (n - 1)" in lines[7]


def test_other_metrics_and_models(rows):
    """`metrics` chooses, a loss has no percent and nothing published; `beside` chooses whose results are shown."""
    (first, _), grid = results(rows, ["loss"]).rows, results(rows, beside=["BERT mini", "nobody"])
    assert first[2:] == ("loss", "0.2300 ± 0.2339 (3 seeds); without 1 degenerate: 0.0950 ± 0.0071 (2 seeds)",
                         "0.0900", "0.1000, 0.5000*, 0.0900", "-", "-")  # fmt: skip
    ((cell,), _) = (row[-1] for row in grid.rows)
    assert cell.text == "85.9 BERT mini, test (google-research/bert README, small models; read in the source)"


def test_degenerate_seeds_have_their_reason(rows):
    """Named, with both means."""
    assert degenerate(rows).rows == (
        ("SST-2", "minilm", "12346", REASON, "77.00 ± 23.39 (3 seeds)", "90.50 ± 0.71 (2 seeds)"),
    )


def test_settings(rows):
    """What is of interest has a column, the rest is named where it differs; time is of all seeds of a folder."""
    assert settings(rows).rows == (
        ("SST-2", "minilm", "minilm", "22,713,216", "3,000", "872", "5e-05", "32", "3", "200",
         "120 for 3 seeds at once", "-"),
        ("SST-2", "scratch", "minilm, random weights", "22,713,216", "3,000", "872", "5e-05", "8", "3", "200", "120",
         "-"),
    )  # fmt: skip


def test_known():
    """All that is published of a task, with source and certainty; nothing for a task that nobody knows."""
    lines = [(row[0], row[1], row[2], row[4]) for row in known("CoLA", "matthews").rows]
    assert ("BERT base", "test", "52.1", "from a transcription") in lines
    assert ("BERT base cased", "dev", "59.04 ± 1.06", "read in the source") in lines
    assert known("mine", "accuracy").rows == ()


def test_markdown_is_not_broken_by_its_content(tmp_path):
    """Bars, brackets and line ends in a reason stay text in one cell."""
    text = markdown(left_out([LeftOut(tmp_path, "a|b\n<c> [d](e)")]))
    assert text.splitlines()[-1].endswith(r"| a\|b \<c> \[d\](e) |")


def test_csv(rows):
    """Every metric of every variant, all digits, read back by any reader; empty where there is nothing."""
    lines = list(csv.DictReader(io.StringIO(csv_table(rows))))
    assert [(line["variant"], line["metric"], line["official"]) for line in lines] == [
        ("minilm", "accuracy", "True"), ("minilm", "loss", "False"),
        ("scratch", "accuracy", "True"), ("scratch", "loss", "False"),
    ]  # fmt: skip
    first, last = lines[0], lines[-1]
    assert [float(first[name]) for name in ("mean", "std", "best", "mean_without_degenerate", "baseline")] == (
        pytest.approx([77, 23.388031127, 91, 90.5, 50])
    )
    assert first["values"].split()[0] == "12345=90.0" and first["degenerate"] == f"12346: {REASON}"
    assert (first["published"], first["published_certainty"]) == ("93.5", "from a transcription")
    assert (last["std"], last["published"], last["unit"], last["seeds"]) == ("", "", "", "1")

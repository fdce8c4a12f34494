"""The report as a whole: the files that the command writes, and a page that needs nothing else."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from bert_jax.report.page import confusion
from tests.report.made_up import answers, write_config, write_run, write_seeds
from tools.report import Arguments, main, report

LABELS = np.arange(40) % 2


@pytest.fixture
def runs(tmp_path):
    """Two variants with predictions, one seed of them degenerate, a regression and a run that is not finished."""
    for name, wrong in (("a", 4), ("b", 12)):
        found = np.where(np.arange(40) < wrong, 1 - LABELS, LABELS)
        lines = [answers(LABELS, found, ("<neg>", "pos"))] * 2
        write_seeds(tmp_path / f"runs/{name}", [1 - wrong / 40] * 2, lines=lines, degenerate={1: "one & only"})
    scores = [{"label": str(i % 5), "prediction": i / 8} for i in range(40)]
    write_run(tmp_path / "runs/sts", {"regress/loss": 1.0, "regress/spearman": 0.5}, name="STS-B", lines=scores)
    write_config(tmp_path / "runs/unfinished")
    return tmp_path / "runs"


def run(arguments):
    """Writes a report; what was printed."""
    console = Console(width=250, file=io.StringIO())
    report(arguments, console)
    return console.file.getvalue()


class Page(HTMLParser):
    """Checks that every element is closed, and collects names, addresses and the text."""

    void = ("meta", "br", "link", "img", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe", "img")
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data"):
                self.links.append((tag, value))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report(runs, tmp_path):
    """Three files with the same numbers; degenerate seeds, unfinished runs and the comparison are in all of them and on
    the console, which has no room for what others published."""
    output = tmp_path / "out"
    printed = run(Arguments((runs,), output, compare=("a", "b"), resamples=99))
    assert {path.name for path in output.iterdir()} == {"report.md", "report.csv", "report.html"}
    page, text = Page((output / "report.html").read_text()), (output / "report.md").read_text()
    for said in (printed, page.text, text):
        for words in ("90.00 ± 0.00 (2 seeds)", "without 1 degenerate", "one & only", "unfinished: no result.json",
                      "a against b", "+20.00"):  # fmt: skip
            assert words in re.sub(r"\s+", " ", said), words
        for words in ("from a transcription", "93.5 BERT base, test"):
            assert (words in re.sub(r"\s+", " ", said)) == (said is not printed), words
    assert "Published for STS-B, spearman" in page.text and "Published for STS-B, spearman" in text
    lines = list(csv.DictReader(io.StringIO((output / "report.csv").read_text())))
    assert [(line["task"], line["variant"], line["mean"]) for line in lines if line["official"] == "True"] == [
        ("SST-2", "a", "90.0"), ("SST-2", "b", "70.0"), ("STS-B", "sts", "50.0")
    ]  # fmt: skip
    run(Arguments((runs,), output))  # an earlier report is replaced
    assert "a against b" not in (output / "report.md").read_text()


def test_the_page_needs_nothing_else(runs, tmp_path):
    """No address but links to papers and names inside of the page, which are not used twice; all elements closed;
    pictures and confusions are there."""
    run(Arguments((runs,), tmp_path / "out"))
    text = (tmp_path / "out/report.html").read_text()
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids) > 0
    for tag, address in page.links:
        if not (tag == "a" and address.startswith(("https://arxiv.org/abs/", "https://github.com/"))):
            assert address.startswith("#") and address[1:] in page.ids
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert not re.search(r"@import|url\((?!#)", text)
    assert text.count("<svg") == 2 + 3 + 1  # a spread each task, curves each variant, the scores of STS-B
    assert text.count('class="confusion"') == 2 and "&lt;neg&gt;" in text and "<neg>" not in text


def test_confusion():
    """Lines are what was wanted; the shade is the share of the line."""
    matrix = confusion(("x", "y"), np.array([[3, 1], [0, 0]]))
    cells = re.findall(r"rgba\([^)]*,([0-9.]+)\)\">(\d+)<", matrix)
    assert cells == [("0.56", "3"), ("0.19", "1"), ("0.00", "0"), ("0.00", "0")]


def test_runs_without_logs_and_predictions(tmp_path):
    """A page all the same, which says so."""
    folder = write_run(tmp_path / "runs", {"classify/accuracy": 0.5})
    (folder / "metrics.jsonl").unlink()
    run(Arguments((tmp_path / "runs",), tmp_path / "out"))
    assert "No curves were logged." in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/unfinished"], "no finished run:\n  .*unfinished: unfinished: no result.json"),
        (["no-such"], "no-such is no folder"),
        (["runs", "--metric", "bleu"], "no run has the metric 'bleu': there are accuracy, loss, spearman"),
        (["runs", "--compare", "a", "q"], "no variant 'q'"),
    ],
)
def test_bad_input_ends_with_a_line(runs, tmp_path, monkeypatch, capsys, arguments, message):
    """Exit status 2, what is wrong, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report.py", *arguments, "--output", "out"])
    assert main() == 2
    assert re.search(f"^report: {message}", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()

"""The files that GLUE's server wants, from runs and test files; what it would reject is refused here."""

import dataclasses
import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bert_jax.experiment import Experiment, encode
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.regress import Regress
from bert_jax.tasks.glue import GLUE, glue
from bert_jax.text.wordpiece import WordPiece
from tests.interop.random_models import random_model

ROOT = Path(__file__).parents[1]
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])
MAX_LENGTH = 10  # a few of the texts are longer


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("glue_submission", ROOT / "tools/glue_submission.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def run_of(workdir, name, folder="GLUE", seed=0, labels=None):
    """A workdir of a task of GLUE as a run leaves it, with random weights."""
    task = dataclasses.replace(glue(name, folder), max_length=MAX_LENGTH)
    if name == "STS-B":
        heads = {"regress": Regress()}
    else:
        labels = task.labels if labels is None else labels
        heads = {"classify": Classify(len(labels) or 2, labels=labels)}
    opened = random_model(heads, seed, TOKENIZER, vocab_size=TOKENIZER.vocab_size)
    opened.save(workdir, "bert_jax")
    experiment = Experiment(task, Multitask(None, heads), init_from=Path("mini"), epochs=1.0)
    (workdir / "config.json").write_text(json.dumps(encode(experiment)))
    return opened


def write_tests(folder, name, rows=None):
    """The test files of a task with the number of rows that the server expects, or another one."""
    rng = np.random.default_rng(0)
    for submission in GLUE[name].submissions:
        path = folder / name / submission.tests[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["\t".join([submission.index, "other", *GLUE[name].texts])]
        for i in range(rows or submission.rows):
            texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 9))) for _ in GLUE[name].texts]
            lines.append("\t".join([str(i), "x", *texts]))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(path):
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert header == ["index", "prediction"]
    assert [index for index, _ in rows] == [str(i) for i in range(len(rows))]
    return [prediction for _, prediction in rows]


def submit(tool, runs, folder, output):
    said = []
    tool.submit(tool.Arguments(tuple(runs), folder, output, "latest"), said.append)
    return said


def test_the_files(tool, tmp_path):
    """One a test set, with GLUE's labels, and all in a zip; predictions are those of the model on the texts, cut as in
    training. What no run predicts is said."""
    folder, runs = tmp_path / "GLUE", {name: tmp_path / name for name in ("WNLI", "RTE", "STS-B")}
    opened = {name: run_of(workdir, name, str(folder)) for name, workdir in runs.items()}
    for name in runs:
        write_tests(folder, name)
    said = submit(tool, runs.values(), folder, tmp_path / "out")
    found = {name: read(tmp_path / f"out/{name}.tsv") for name in runs}
    assert {name: len(rows) for name, rows in found.items()} == {"WNLI": 146, "RTE": 3000, "STS-B": 1379}
    assert set(found["WNLI"]) == {"0", "1"} and set(found["RTE"]) == {"entailment", "not_entailment"}
    scores = np.array(found["STS-B"], float)
    assert scores.min() == 0 and scores.max() > 0.1 and all(len(text) == 5 for text in found["STS-B"])
    with zipfile.ZipFile(tmp_path / "out/submission.zip") as archive:
        assert sorted(archive.namelist()) == ["RTE.tsv", "STS-B.tsv", "WNLI.tsv"]
        assert archive.read("RTE.tsv") == (tmp_path / "out/RTE.tsv").read_bytes()
    missing = [f"{name}.tsv" for name in ("CoLA", "SST-2", "MRPC", "QQP", "MNLI-m", "MNLI-mm", "AX", "QNLI")]
    assert said[-1].endswith(f"no run predicts {', '.join(missing)}")
    for name, p in opened.items():
        rows = tool.read_test(folder / name, GLUE[name].submissions[0], GLUE[name].texts)
        for i in (0, 77, 145):
            row = TOKENIZER.encode_pair(*rows[i], max_length=MAX_LENGTH)
            logits = np.asarray(p(row.ids[None], row.segments[None])["logits"][0])
            if name == "STS-B":
                assert float(found[name][i]) == pytest.approx(min(max(logits[0], 0), 5), abs=6e-4)
            else:
                assert found[name][i] == GLUE[name].classes[logits.argmax()]


def test_mnli_has_three_test_sets(tool, tmp_path, monkeypatch):
    """Matched, mismatched, and the diagnostic set, which lies in a folder of its own; here a part of each."""
    task = GLUE["MNLI"]
    assert [(own.file, own.rows) for own in task.submissions] == [
        ("MNLI-m.tsv", 9796),
        ("MNLI-mm.tsv", 9847),
        ("AX.tsv", 1104),
    ]
    few = tuple(dataclasses.replace(own, rows=own.rows // 100) for own in task.submissions)
    monkeypatch.setitem(GLUE, "MNLI", dataclasses.replace(task, submissions=few))
    run_of(tmp_path / "run", "MNLI")
    write_tests(tmp_path / "GLUE", "MNLI")
    assert (tmp_path / "GLUE/diagnostic/diagnostic.tsv").exists()
    submit(tool, [tmp_path / "run"], tmp_path / "GLUE", tmp_path / "out")
    for file, rows in {"MNLI-m": 97, "MNLI-mm": 98, "AX": 11}.items():
        found = read(tmp_path / f"out/{file}.tsv")
        assert len(found) == rows and set(found) <= {"entailment", "neutral", "contradiction"}


def test_a_model_that_was_trained_through_tfds(tool, tmp_path):
    """Its classes have other names there; the server gets its own."""
    opened = run_of(tmp_path / "run", "WNLI", "tfds:glue")
    assert opened.labels == ("not_entailment", "entailment")
    write_tests(tmp_path / "GLUE", "WNLI")
    submit(tool, [tmp_path / "run"], tmp_path / "GLUE", tmp_path / "tfds")
    run_of(tmp_path / "other", "WNLI", "GLUE")
    submit(tool, [tmp_path / "other"], tmp_path / "GLUE", tmp_path / "files")
    assert read(tmp_path / "tfds/WNLI.tsv") == read(tmp_path / "files/WNLI.tsv")


def test_mrpc_from_the_msr_file(tool, tmp_path):
    """Which has the rows of the test set in their order, and no numbers."""
    (tmp_path / "MRPC").mkdir()
    lines = ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", *(f"1\t2\t3\ta {i}\tb" for i in range(1725))]
    (tmp_path / "MRPC/msr_paraphrase_test.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = tool.read_test(tmp_path / "MRPC", *GLUE["MRPC"].submissions, GLUE["MRPC"].texts)
    assert len(rows) == 1725 and rows[7] == ("a 7", "b")


def test_what_the_server_would_reject(tool, tmp_path):
    """Rows that are missing or out of order, no file at all: with file and line, and nothing is written."""
    run_of(tmp_path / "run", "WNLI")
    folder, output = tmp_path / "GLUE", tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"WNLI\.tsv needs .*WNLI/test\.tsv, also \.gz or \.xz"):
        submit(tool, [tmp_path / "run"], folder, output)
    write_tests(folder, "WNLI", rows=145)
    with pytest.raises(ValueError, match=r"test\.tsv: 145 rows, but the test set for WNLI\.tsv has 146"):
        submit(tool, [tmp_path / "run"], folder, output)
    write_tests(folder, "WNLI")
    lines = (folder / "WNLI/test.tsv").read_text().splitlines()
    (folder / "WNLI/test.tsv").write_text("\n".join([*lines[:5], lines[6], lines[5], *lines[7:]]) + "\n")
    with pytest.raises(ValueError, match=r"test\.tsv, line 6: index '5', expected 4"):
        submit(tool, [tmp_path / "run"], folder, output)
    assert not list(tmp_path.glob("out*"))


def test_runs_that_do_not_fit(tool, tmp_path):
    """Two of one task, one of something else, other classes, an output that is there."""
    write_tests(tmp_path / "GLUE", "WNLI")
    folder, output = tmp_path / "GLUE", tmp_path / "out"
    for name in ("one", "two"):
        run_of(tmp_path / name, "WNLI")
    with pytest.raises(ValueError, match=r"one and .*two are both runs of WNLI: give one of them"):
        submit(tool, [tmp_path / "one", tmp_path / "two"], folder, output)
    config = json.loads((tmp_path / "two/config.json").read_text())
    config["task"]["name"] = "IMDb"
    (tmp_path / "two/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"two is a run of 'IMDb', which is none of CoLA, SST-2"):
        submit(tool, [tmp_path / "two"], folder, output)
    run_of(tmp_path / "three", "WNLI", labels=("no", "yes"))
    with pytest.raises(ValueError, match=r"three has the classes no, yes, not 0, 1"):
        submit(tool, [tmp_path / "three"], folder, output)
    output.mkdir()
    with pytest.raises(FileExistsError, match=r"out exists: choose another folder"):
        submit(tool, [tmp_path / "one"], folder, output)


def test_the_real_test_files(tool, shared_data):
    """Those that are there have the number of rows that the server expects, numbered from 0."""
    for name in ("RTE", "WNLI", "QNLI", "MRPC"):
        (submission,) = GLUE[name].submissions
        assert len(tool.read_test(shared_data / "glue" / name, submission, GLUE[name].texts)) == submission.rows

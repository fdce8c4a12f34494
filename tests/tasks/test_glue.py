"""GLUE from the official folder, from the sources it was made of, and from TFDS: the same tasks."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.regress import Regress
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.glue import GLUE, best_metric, glue
from bert_jax.tasks.regression import Regression
from bert_jax.text.wordpiece import WordPiece

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijk"])
MNLI = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
# The official files' headers, and two rows: letters in the texts (X and Y), the label as L.
PAIRS = "index\tsentence1\tsentence2\tlabel\n0\tX\tY\tL0\n1\tY\tX\tL1\n"
STS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
LAYOUTS = {
    "CoLA": ("gj04\tL0\t*\tX\ngj04\tL1\t\tY\n", ("0", "1")),
    "SST-2": ("sentence\tlabel\nX \tL0\nY \tL1\n", ("0", "1")),
    "MRPC": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\nL0\t1\t2\tX\tY\nL1\t3\t4\tY\tX\n", ("0", "1")),
    "STS-B": (
        STS + "0\tg\tf\t2012\t1\tnone\tnone\tX\tY\tL0\n1\tg\tf\t2012\t2\tnone\tnone\tY\tX\tL1\n",
        ("3.800", "0.500"),
    ),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t1\t2\tX\tY\tL0\n9\t3\t4\tY\tX\tL1\n", ("0", "1")),
    "MNLI": (
        "\t".join(MNLI.split()) + "\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t1\t1e\tfiction\t(\t(\t(\t(\tX\tY\tneutral\tL0\n1\t1\t1e\tfiction\t(\t(\t(\t(\tY\tX\tneutral\tL1\n",
        ("contradiction", "entailment"),
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel\n0\tX\tY\tL0\n1\tY\tX\tL1\n", ("not_entailment", "entailment")),
    "RTE": (PAIRS, ("not_entailment", "entailment")),
    "WNLI": (PAIRS, ("0", "1")),
}  # fmt: skip
NUMBERS = {"MNLI": [2, 0], "QNLI": [1, 0], "RTE": [1, 0]}
SINGLE = ("CoLA", "SST-2")


def official(folder: Path, name: str) -> Path:
    """A folder with one task of two rows each: training `"a b` and `c`, held out d and e, f and g."""
    text, labels = LAYOUTS[name]
    (folder / name).mkdir(parents=True)
    held_out = ("dev_matched", "dev_mismatched") if name == "MNLI" else ("dev",)
    for file, x, y in zip(("train", *held_out), ('"a b', "d", "f"), ("c", "e", "g"), strict=False):
        filled = text.replace("X", x).replace("Y", y).replace("L0", labels[0]).replace("L1", labels[1])
        (folder / name / f"{file}.tsv").write_text(filled, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", GLUE)
def test_the_official_folder(tmp_path, name):
    """Each task reads its texts, labels in GLUE's order, and held-out files; quotes are text, not quoting."""
    task = glue(name, str(official(tmp_path, name)), max_length=8)
    assert task.name == name and isinstance(task, Regression if name == "STS-B" else Classification)
    source = task.train(TOKENIZER)
    letters = [[token for token in row if token > 3] for row in source.read(np.array([0, 1]))["tokens"].tolist()]
    a, b, c = 5, 6, 7
    assert letters == ([[a, b], [c]] if name in SINGLE else [[a, b, c], [c, a, b]])
    assert source.read(np.array([0]))["segments"].max() == (name not in SINGLE)
    if name == "STS-B":
        np.testing.assert_array_equal(source.targets["target"], np.float32([3.8, 0.5]))
        assert task.prepare(Multitask(None, {"regress": Regress()}))
    else:
        assert source.targets["label"].tolist() == NUMBERS.get(name, [0, 1])
        head = task.prepare(Multitask(None, {"classify": Classify()})).objectives["classify"]
        assert head.labels == GLUE[name].classes and head.num_classes == (3 if name == "MNLI" else 2)
    evaluations = task.evaluations(TOKENIZER)
    assert list(evaluations) == (["dev_matched", "dev_mismatched"] if name == "MNLI" else ["valid"])
    assert all(len(own) == 2 for own in evaluations.values())


def test_official_metrics():
    """Those of Wang et al. 2018, and the one that each task is known by."""
    metrics = {name: glue(name, "GLUE").metric_names for name in GLUE}
    assert metrics == dict.fromkeys(GLUE, ()) | {
        "CoLA": ("classify/matthews",),
        "MRPC": ("classify/f1",),
        "QQP": ("classify/f1",),
        "STS-B": ("regress/pearson", "regress/spearman"),
    }
    assert best_metric(glue("CoLA", "GLUE")) == "valid/classify/matthews"
    assert best_metric(glue("STS-B", "GLUE")) == "valid/regress/spearman"
    assert best_metric(glue("MNLI", "GLUE")) == "dev_matched/classify/accuracy"
    assert best_metric(glue("MNLI", "tfds:glue")) == "validation_matched/classify/accuracy"


def test_f1_is_of_the_paraphrases(tmp_path):
    """Of MRPC and QQP: the class 1, through both doors, where it has a name that comes first in the alphabet."""
    for name in ("MRPC", "QQP"):
        assert glue(name, "GLUE").classes.index("1") == 1
    assert glue("MRPC", "tfds:glue").classes.index("equivalent") == 1
    assert glue("QQP", "tfds:glue").classes.index("duplicate") == 1


def test_cola_as_its_authors_publish_it(tmp_path):
    """raw/: the held-out rows are in two files, of the domains of training and of others; GLUE's dev is both."""
    (tmp_path / "CoLA/raw").mkdir(parents=True)
    for file, rows in {"in_domain_train": 3, "in_domain_dev": 2, "out_of_domain_dev": 1}.items():
        (tmp_path / f"CoLA/raw/{file}.tsv").write_text("".join(f"gj04\t{i % 2}\t\ta b\n" for i in range(rows)))
    task = glue("CoLA", str(tmp_path))
    assert len(task.train(TOKENIZER)) == 3
    assert {name: len(rows) for name, rows in task.evaluations(TOKENIZER).items()} == {"valid": 3}


def test_mrpc_as_its_authors_publish_it(tmp_path):
    """The MSR file, compressed or not: GLUE's dev set is not marked in it, so a tenth is drawn, always the same."""
    (tmp_path / "MRPC").mkdir()
    header, *_ = LAYOUTS["MRPC"][0].split("\n")
    rows = [f"{i % 2}\t{i}\t{i}\ta\tb" for i in range(40)]
    with gzip.open(tmp_path / "MRPC/msr_paraphrase_train.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\r\n".join([header, *rows]) + "\r\n")
    task = glue("MRPC", str(tmp_path))
    assert len(task.train(TOKENIZER)) == 36
    assert {name: len(rows) for name, rows in task.evaluations(TOKENIZER).items()} == {"valid": 4}


def test_broken_rows_of_qqp_are_left_out(tmp_path):
    """Its training file has questions that are missing, and some with a line break in them; the log says so."""
    folder = official(tmp_path, "QQP")
    with open(folder / "QQP/train.tsv", "a") as file:
        file.write("1\t1\t2\ta\t\t0\n2\t1\t2\tbroken\n\t c\t1\n")
    task = glue("QQP", str(folder))
    train = task.train(TOKENIZER)
    assert len(train) == 2
    assert "3 of 5 rows of train are left out, the first: " in task.preview(train, TOKENIZER)[-1]


def test_what_is_not_there(tmp_path):
    """The file is named; a label that is none of the task's is an error with its line."""
    with pytest.raises(FileNotFoundError, match=r"QNLI/train\.tsv: no such file"):
        glue("QNLI", str(tmp_path)).train(TOKENIZER)
    folder = official(tmp_path, "RTE")
    with open(folder / "RTE/dev.tsv", "a") as file:
        file.write("2\ta\tb\tneutral\n")
    message = r"RTE/dev\.tsv, line 4: label 'neutral' is none of the classes: entailment, not_entailment"
    with pytest.raises(ValueError, match=message):
        glue("RTE", str(folder)).evaluations(TOKENIZER)


@pytest.mark.parametrize("name", ["CoLA", "SST-2", "STS-B", "MNLI", "WNLI"])
def test_the_same_through_tfds(tmp_path, monkeypatch, name):
    """TFDS's own builder, fed with the official folder, gives the same examples in another order."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text

    folder = official(tmp_path / "files", name)
    (folder / name / "test.tsv").write_text(_without_labels(name))
    for split in ("test_matched", "test_mismatched"):
        (folder / name / f"{split}.tsv").write_text(_without_labels(name))
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: str(folder))
    config = GLUE[name].tfds
    builder = tfds.builder(f"glue/{config}", data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare()
    ours, theirs = (
        glue(name, str(folder), max_length=8),
        glue(name, "tfds:glue", max_length=8, tfds_dir=str(tmp_path / "tfds")),
    )
    assert examples(theirs.train(TOKENIZER)) == examples(ours.train(TOKENIZER))
    found, expected = theirs.evaluations(TOKENIZER), ours.evaluations(TOKENIZER)
    assert [examples(own) for own in found.values()] == [examples(own) for own in expected.values()]
    if name != "STS-B":
        assert len(theirs.classes) == len(ours.classes)


def _without_labels(name):
    header = {"CoLA": "index\tsentence\n0\ta\n", "SST-2": "index\tsentence\n0\ta\n"}
    if name == "MNLI":
        return "\t".join(MNLI.split()) + "\tsentence1\tsentence2\n0\t1\t1\tg\t(\t(\t(\t(\ta\tb\n"
    if name == "STS-B":
        return STS.replace("\tscore", "") + "0\tg\tf\t2012\t1\tnone\tnone\ta\tb\n"
    return header.get(name, "index\tsentence1\tsentence2\n0\ta\tb\n")


def examples(source):
    """All examples as sorted (tokens, target) pairs."""
    batch = source.read(np.arange(len(source)))
    (target,) = source.targets
    return sorted(zip(batch["tokens"].tolist(), batch[target].tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "train", "valid"),
    [
        ("CoLA", 8551, 527 + 516),
        ("SST-2", 67_349, 872),
        ("MRPC", 3668, 408),
        ("STS-B", 5749, 1500),
        ("RTE", 2490, 277),
        ("WNLI", 635, 71),
    ],
)
def test_the_real_files(shared_data, name, train, valid):
    """Every example of GLUE is read; of the MSR file as many are held out as GLUE holds out."""
    data = glue(name, str(shared_data / "glue")).data
    assert len(data.train_rows) == train
    assert [len(rows) for rows in data.valid_rows.values()] == [valid]
    assert data.notes(data.empty_field) == []


def test_the_real_files_of_qnli_and_mrpc(shared_data):
    """QNLI's dev set and the whole of the MSR files."""
    folder = shared_data / "glue"
    assert len(glue("QNLI", str(folder)).data.read(str(folder / "QNLI/dev.tsv.gz"))) == 5463
    mrpc = glue("MRPC", str(folder)).data
    for part, rows in (("train", 4076), ("test", 1725)):
        assert len(mrpc.read(str(folder / f"MRPC/msr_paraphrase_{part}.txt.gz"))) == rows

"""The nine tasks of GLUE (Wang et al. 2018, arXiv 1804.07461), from files or from TFDS, and what its server wants."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bert_jax.data.held_out import source_name
from bert_jax.data.tables import Tables
from bert_jax.data.tfds import PREFIX
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.published import OFFICIAL
from bert_jax.tasks.regression import Regression

Name = Literal["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"]
# Of the scores of STS-B.
LOWEST, HIGHEST = 0.0, 5.0


@dataclass(frozen=True)
class Submission:
    """A file of predictions for a test set.

    Attributes:
        file: its name.
        rows: of the test set.
        tests: test files, seen from the folder of the task; the first that is there is read.
        index: the field that numbers their rows from 0.
    """

    file: str
    rows: int
    tests: tuple[str, ...] = ("test.tsv",)
    index: str = "index"


@dataclass(frozen=True)
class Glue:
    """How the data of a task are laid out.

    Attributes:
        texts, label: the fields that are read.
        classes: the labels, in the order of GLUE's data sets; none of a score.
        submissions: what the server wants of the task.
        tfds, tfds_texts, tfds_classes, tfds_valid: name, fields, names of the classes and held-out splits there; fields
            and classes where they are others.
        metrics: besides accuracy.
        layouts: training and held-out files of the official folder, and of the sources that it was made from; the first
            whose training file is there is read. Without held-out files a part of the training rows is held out.
        columns: of these files, where they have no header.
        skip_bad_rows: the official file has some.
    """

    texts: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    submissions: tuple[Submission, ...]
    tfds: str
    tfds_texts: tuple[str, ...] = ()
    tfds_classes: tuple[str, ...] = ()
    tfds_valid: tuple[str, ...] = ("validation",)
    metrics: tuple[Literal["f1", "macro_f1", "matthews"], ...] = ()
    layouts: tuple[tuple[str, tuple[str, ...]], ...] = (("train.tsv", ("dev.tsv",)),)
    columns: tuple[str, ...] = ()
    skip_bad_rows: bool = False


_PAIR, _ENTAILMENT = ("sentence1", "sentence2"), ("entailment", "not_entailment")
_TEST_SETS_OF_MNLI = (
    Submission("MNLI-m.tsv", 9796, ("test_matched.tsv",)),
    Submission("MNLI-mm.tsv", 9847, ("test_mismatched.tsv",)),
    Submission("AX.tsv", 1104, ("../diagnostic/diagnostic.tsv", "../AX/diagnostic.tsv", "../AX/test.tsv")),
)
GLUE: dict[Name, Glue] = {
    "CoLA": Glue(
        ("sentence",),
        "label",
        ("0", "1"),
        (Submission("CoLA.tsv", 1063),),
        "cola",
        tfds_classes=("unacceptable", "acceptable"),
        metrics=("matthews",),
        layouts=(
            ("train.tsv", ("dev.tsv",)),
            ("raw/in_domain_train.tsv", ("raw/in_domain_dev.tsv+raw/out_of_domain_dev.tsv",)),
        ),
        columns=("source", "label", "mark", "sentence"),
    ),
    "SST-2": Glue(
        ("sentence",),
        "label",
        ("0", "1"),
        (Submission("SST-2.tsv", 1821),),
        "sst2",
        tfds_classes=("negative", "positive"),
    ),
    "MRPC": Glue(
        ("#1 String", "#2 String"),
        "Quality",
        ("0", "1"),
        (Submission("MRPC.tsv", 1725, ("test.tsv", "msr_paraphrase_test.txt")),),
        "mrpc",
        _PAIR,
        ("not_equivalent", "equivalent"),
        metrics=("f1",),
        # Which rows of the MSR file are GLUE's dev set is not marked in it: as many as those, a tenth, are drawn.
        layouts=(("train.tsv", ("dev.tsv",)), ("msr_paraphrase_train.txt", ())),
    ),
    "STS-B": Glue(_PAIR, "score", (), (Submission("STS-B.tsv", 1379),), "stsb"),
    "QQP": Glue(
        ("question1", "question2"),
        "is_duplicate",
        ("0", "1"),
        (Submission("QQP.tsv", 390_965, index="id"),),
        "qqp",
        tfds_classes=("not_duplicate", "duplicate"),
        metrics=("f1",),
        skip_bad_rows=True,  # questions that are empty, or broken over two lines
    ),
    "MNLI": Glue(
        _PAIR,
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        _TEST_SETS_OF_MNLI,
        "mnli",
        ("premise", "hypothesis"),
        tfds_valid=("validation_matched", "validation_mismatched"),
        layouts=(("train.tsv", ("dev_matched.tsv", "dev_mismatched.tsv")),),
    ),
    "QNLI": Glue(("question", "sentence"), "label", _ENTAILMENT, (Submission("QNLI.tsv", 5463),), "qnli"),
    "RTE": Glue(_PAIR, "label", _ENTAILMENT, (Submission("RTE.tsv", 3000),), "rte"),
    "WNLI": Glue(
        _PAIR,
        "label",
        ("0", "1"),
        (Submission("WNLI.tsv", 146),),
        "wnli",
        tfds_classes=("not_entailment", "entailment"),
    ),
}


def glue(name: Name, folder: str, max_length: int = 128, tfds_dir: str | None = None) -> Classification | Regression:
    """A task of GLUE. Nothing is read yet.

    Args:
        name: as GLUE writes it.
        folder: with a folder for each task, CoLA to WNLI, as the official download makes it; or tfds:glue.
        max_length: tokens of a row.
        tfds_dir: where prepared TFDS data sets are.
    """
    task = GLUE[name]
    if folder.startswith(PREFIX):
        source = f"{folder}/{task.tfds}"
        data = Tables(
            f"{source}@train",
            tuple(f"{source}@{split}" for split in task.tfds_valid),
            text_columns=task.tfds_texts or task.texts,
            tfds_dir=tfds_dir,
        )
        classes = task.tfds_classes or task.classes
    else:
        train, valid = next(
            (layout for layout in task.layouts if found(Path(folder, name, layout[0])).exists()), task.layouts[0]
        )
        data = Tables(
            str(found(Path(folder, name, train))),
            tuple("+".join(str(found(Path(folder, name, part))) for part in files.split("+")) for files in valid),
            text_columns=task.texts,
            label_column=task.label,
            columns=task.columns,
            skip_bad_rows=task.skip_bad_rows,
        )
        classes = task.classes
    if not classes:
        return Regression(data, max_length, name)
    return Classification(data, max_length, task.metrics, name, classes)


def best_metric(task: Classification | Regression) -> str:
    """The metric that GLUE knows a task by, of its first held-out source (of MNLI the matched one)."""
    valid, head = task.data.valid, "regress" if isinstance(task, Regression) else "classify"
    return f"{source_name(valid[0]) if len(valid) > 1 else 'valid'}/{head}/{OFFICIAL[task.name]}"


def found(path: Path) -> Path:
    """The file, or the compressed one of that name; the path as it is where there is neither."""
    packed = (path.with_name(f"{path.name}{suffix}") for suffix in ("", ".gz", ".xz"))
    return next((file for file in packed if file.exists()), path)

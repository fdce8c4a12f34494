"""Makes of finished runs what gluebenchmark.com wants.

    python tools/glue_submission.py RUN... --folder GLUE --output NEW

Each run is a workdir of `experiments/glue.py` (of several seeds, the folder of one), and knows its task; MNLI gives
MNLI-m.tsv, MNLI-mm.tsv and AX.tsv. They are read from the test files in the folder of GLUE, cut at the length that the
run was trained with. NEW gets a file for each test set and `submission.zip` of all; it appears whole or not at all.

    python tools/glue_submission.py runs/cola runs/mnli --folder GLUE --output runs/submission --checkpoint best
"""

import csv
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from bert_jax.data.features import encode_texts
from bert_jax.data.tables import read_table
from bert_jax.experiment import one_line_errors
from bert_jax.inference import forward
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.regress import Regress
from bert_jax.pretrained import Pretrained, load, load_experiment
from bert_jax.tasks.glue import GLUE, HIGHEST, LOWEST, Glue, Submission, found


@dataclass(frozen=True)
class Arguments:
    """Predicts the test sets of GLUE and writes the files that its server wants."""

    runs: tyro.conf.Positional[tuple[Path, ...]]  # finished workdirs, one a task
    folder: Path  # of GLUE's data, with a folder for each task
    output: Path  # folder to make; must not exist
    checkpoint: Literal["best", "latest"] = "latest"  # of each run


def submit(arguments: Arguments, say: Callable[[str], None]) -> None:
    """Predicts, checks and writes.

    Raises FileExistsError for an output that is there; FileNotFoundError and ValueError for runs and test files that
    are missing, of no task of GLUE, or do not fit.
    """
    if arguments.output.exists():
        raise FileExistsError(f"{arguments.output} exists: choose another folder, nothing is overwritten")
    planned = plan(arguments.runs, arguments.folder)
    partial = arguments.output.with_name(f"{arguments.output.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        with zipfile.ZipFile(partial / "submission.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for run, tests in planned.items():
                opened, (name, max_length) = load(run, arguments.checkpoint), task_of(run)
                for submission, texts in tests.items():
                    answers = predictions(opened, GLUE[name], texts, max_length, run)
                    write(partial / submission.file, answers)
                    archive.write(partial / submission.file, submission.file)
                    say(f"{submission.file}: {len(answers):,} predictions of {run}")
        partial.rename(arguments.output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    given = {submission.file for tests in planned.values() for submission in tests}
    missing = [submission.file for task in GLUE.values() for submission in task.submissions]
    missing = [file for file in missing if file not in given]
    say(f"wrote {arguments.output}" + (f"; no run predicts {', '.join(missing)}" if missing else ""))


def plan(runs: Sequence[Path], folder: Path) -> dict[Path, dict[Submission, list[tuple[str, ...]]]]:
    """For each run the test sets of its task and their texts: what can be wrong with the input is found here."""
    planned: dict[Path, dict[Submission, list[tuple[str, ...]]]] = {}
    owners: dict[str, Path] = {}
    for run in runs:
        name, _ = task_of(run)
        if name in owners:
            raise ValueError(f"{owners[name]} and {run} are both runs of {name}: give one of them")
        owners[name] = run
        planned[run] = {
            submission: read_test(folder / name, submission, GLUE[name].texts) for submission in GLUE[name].submissions
        }
    return planned


def task_of(run: Path) -> tuple[str, int]:
    """The name of the task of a run, and the tokens of its rows. Raises ValueError for a task that is none of GLUE."""
    task = load_experiment(run).task
    name = getattr(task, "name", "")
    if name not in GLUE:
        raise ValueError(f"{run} is a run of {name or type(task).__name__!r}, which is none of {', '.join(GLUE)}")
    return name, task.max_length


def read_test(folder: Path, submission: Submission, texts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The texts of a test set.

    Raises FileNotFoundError, or ValueError for rows that are not numbered from 0 on, or another number of them than the
    server expects.
    """
    files = [found(folder / test) for test in submission.tests]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise FileNotFoundError(f"{submission.file} needs {' or '.join(map(str, files))}, also .gz or .xz")
    # The MSR file, which GLUE's test set of MRPC was made from, has the same rows in the same order, without numbers.
    numbered = () if file.name.startswith("msr_") else (submission.index,)
    rows = read_table(file, texts + numbered)
    for i, row in enumerate(rows):
        if numbered and row.fields[submission.index] != str(i):
            raise ValueError(f"{row.place}: {submission.index} {row.fields[submission.index]!r}, expected {i}")
    if len(rows) != submission.rows:
        raise ValueError(f"{file}: {len(rows):,} rows, but the test set for {submission.file} has {submission.rows:,}")
    return [tuple(row.fields[text] for text in texts) for row in rows]


def predictions(
    opened: Pretrained, task: Glue, texts: Sequence[tuple[str, ...]], max_length: int, run: Path
) -> list[str]:
    """The predictions as the server wants them: a label as it stands in GLUE's files, or a score from 0 to 5."""
    kind = Classify if task.classes else Regress
    head = next((name for name, head in opened.model.objectives.items() if isinstance(head, kind)), None)
    if head is None:
        raise ValueError(f"{run} has no head of the kind {kind.__name__}")
    encodings, _ = encode_texts(texts, opened.tokenizer, max_length)
    model, params = opened.model.frozen(), jax.device_put(opened.params)
    full_of = None if getattr(model.encoder, "ignores_padding", True) else opened.tokenizer.pad_id
    rows = forward.run(lambda batch: forward.logits(model, params, batch, head), encodings, max_length, full_of=full_of)
    if not task.classes:
        return [f"{np.clip(row[0], LOWEST, HIGHEST):.3f}" for row in rows]
    written = dict(zip(task.tfds_classes, task.classes, strict=False)) | {name: name for name in task.classes}
    labels = opened.model.objectives[head].labels
    if {written.get(label) for label in labels} != set(task.classes) or len(labels) != len(task.classes):
        raise ValueError(f"{run} has the classes {', '.join(labels) or 'of no names'}, not {', '.join(task.classes)}")
    return [written[labels[row.argmax()]] for row in rows]


def write(file: Path, answers: Sequence[str]) -> None:
    """A file of GLUE's server: the number of the row in the test set, and the prediction."""
    with open(file, "w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "prediction"])
        writer.writerows(enumerate(answers))


def main() -> None:
    """Runs the command line; bad input ends with one line."""
    with one_line_errors():
        submit(tyro.cli(Arguments, description=__doc__), print)


if __name__ == "__main__":
    main()

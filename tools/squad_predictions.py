"""What SQuAD's official script reads: python tools/squad_predictions.py runs/squad/predictions-valid.tsv answers.json

The JSON object has the answer to each question by its id. For SQuAD 2.0, `--null-odds odds.json` writes by how much "no
answer" scores above the best span, the script's `--na-prob-file`, and `--best-spans` the best spans as answers, so that
its search for a threshold begins with all questions answered.

`--n-best nbest_predictions.json` also writes what the original's run_squad.py does under this name: of each question
the 20 best texts with their probabilities and logits. They are not in the predictions file: the run that it lies in is
evaluated again, which takes its data, and on a CPU its time.
"""

import csv
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from bert_jax.evaluate import evaluate, restore
from bert_jax.experiment import one_line_errors
from bert_jax.tasks.answering import N_BEST, Answering


def convert(
    predictions: tyro.conf.Positional[Path],
    output: tyro.conf.Positional[Path],
    null_odds: Path | None = None,
    best_spans: bool = False,
    n_best: Path | None = None,
    n_best_size: int = N_BEST,
    checkpoint: Literal["best", "latest"] = "latest",
) -> None:
    """Writes the predictions file of a run as JSON.

    Args:
        predictions: predictions-<source>.tsv of a run of experiments/squad.py or squad2.py.
        output: file to write.
        null_odds: a second file to write, with numbers in place of answers.
        best_spans: the best span as the answer of every question.
        n_best: a file to write with a list of answers for every question, from a checkpoint of the run.
        n_best_size: answers in such a list; "no answer" may be one more.
        checkpoint: which of the run's; the latest is the one that its predictions file is of.
    """
    columns = {output: "best_span" if best_spans else "prediction"}
    columns |= {null_odds: "null_odds"} if null_odds else {}
    with open(predictions, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        names, rows = reader.fieldnames or [], list(reader)
    if missing := [name for name in ("id", *columns.values()) if name not in names]:
        raise ValueError(f"{predictions}: no field {missing[0]!r}; it has {', '.join(map(repr, names))}")
    if len({row["id"] for row in rows}) < len(rows):
        raise ValueError(f"{predictions}: ids are not unique, and the official file has one answer for each")
    for path, column in columns.items():
        write(path, {row["id"]: float(row[column]) if column == "null_odds" else row[column] for row in rows})
    if n_best:
        write(n_best, best_answers(predictions, n_best_size, checkpoint))


def best_answers(
    predictions: Path, count: int, checkpoint: Literal["best", "latest"] = "latest"
) -> dict[str, list[dict]]:
    """Evaluates the run of a predictions file again: its best answers to each question, by the question's id."""
    if count < 1:
        raise ValueError(f"n_best_size {count}: must be at least 1")
    run, step, params = restore(predictions.parent, checkpoint)
    task, name = run.experiment.task, predictions.stem.removeprefix("predictions-")
    if not isinstance(task, Answering):
        raise ValueError(f"{predictions.parent} is a run of {type(task).__name__}, not of questions with texts")
    if name not in run.evaluations:
        there = ", ".join(f"predictions-{source}.tsv" for source in run.evaluations)
        raise ValueError(f"{predictions} is no evaluation of its run: there are {there}")
    source, seed = run.evaluations[name], np.uint32(run.experiment.seed)
    size, padding = run.experiment.eval_batch_size, run.experiment.padding
    ((_, found),) = evaluate(step, params, seed, source, size, run.together, padding)
    return task.n_best(found, source, count)


def write(path: Path, answers: dict[str, Any]) -> None:
    path.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(convert, description=__doc__)

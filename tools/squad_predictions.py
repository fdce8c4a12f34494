"""What SQuAD's official script reads: python tools/squad_predictions.py runs/squad/predictions-valid.tsv answers.json

The JSON object has the answer to each question by its id. For SQuAD 2.0, `--null-odds odds.json` writes by how much "no
answer" scores above the best span, the script's `--na-prob-file`, and `--best-spans` the best spans as answers, so that
its search for a threshold begins with all questions answered.
"""

import csv
import json
import sys
from pathlib import Path

import tyro


def convert(
    predictions: tyro.conf.Positional[Path],
    output: tyro.conf.Positional[Path],
    null_odds: Path | None = None,
    best_spans: bool = False,
) -> None:
    """Writes the predictions file of a run as JSON.

    Args:
        predictions: predictions-<source>.tsv of a run of experiments/squad.py or squad2.py.
        output: file to write.
        null_odds: a second file to write, with numbers in place of answers.
        best_spans: the best span as the answer of every question.
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
        found = {row["id"]: float(row[column]) if column == "null_odds" else row[column] for row in rows}
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        tyro.cli(convert, description=__doc__)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

"""Fine-tunes a pre-trained encoder on ARC, multiple-choice questions of school science (Clark et al. 2018).

    python experiments/arc.py --workdir runs/arc --init-from bert-base-uncased \
        --data.train arc_easy_dev.csv+arc_challenge_dev.csv --data.valid arc_easy_test.csv arc_challenge_test.csv

with CSV files of six fields and no header: the question, its choices A to D, of which the last may be empty, and the
key of the answer, A-D or 1-4. `--data.skip-bad-rows` leaves out rows whose choices are missing, and says how many.

As JSON Lines ARC has its choices in a list inside of a field. In the layout of Hugging Face's data set, whose parquet
files `pandas.read_parquet("train.parquet").to_json("train.jsonl", orient="records", lines=True)` rewrites:

    --data.train train.jsonl --data.valid validation.jsonl --data.columns --data.text-columns question choices/text \
        --choice-columns choices/text --data.label-column answerKey

and in that of the authors' own files the same with `question/stem question/choices/text` and `question/choices/text`.
(`--data.columns` takes away the names of the CSV fields.) Questions about a text are read alike, such as those of RACE:
`--data.columns --data.text-columns article question options --choice-columns options --opening-column question
--max-length 512`.

Guessing is right in a quarter of the questions; the log says how often the most frequent place is.
"""

from pathlib import Path

from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.choice import Choice
from bert_jax.tasks.choice import MultipleChoice
from bert_jax.train import main
from bert_jax.training.optim import BertAdam

CHOICES = ("A", "B", "C", "D")


def config() -> Experiment:
    return Experiment(
        task=MultipleChoice(
            Tables(
                "arc_easy_dev.csv",
                ("arc_easy_test.csv",),
                text_columns=("question", *CHOICES),
                label_column="answer",
                columns=("question", *CHOICES, "answer"),
            ),
            choice_columns=CHOICES,
            name="ARC",
        ),
        learner=Multitask(None, {"choice": Choice()}),
        optimizer=BertAdam(learning_rate=2e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        dropout=0.1,
        batch_size=16,
        eval_batch_size=64,
        epochs=4.0,
        log_every=50,
    )


if __name__ == "__main__":
    main(config)

"""Fine-tunes a pre-trained encoder to classify your own texts, or pairs of texts.

    python experiments/classify.py --workdir runs/stars --init-from bert-base-uncased \
        --data.train reviews.csv --data.text-columns review --data.label-column stars

The file is `.tsv`, `.csv` or `.jsonl`, also `.gz` or `.xz`, or a TFDS data set (`tfds:imdb_reviews@train`); two text
columns are a pair. The classes are the labels that it has. A tenth of its rows is held out and evaluated, unless
`--data.valid` names held-out files. Before the training starts, the log shows three rows as the model reads them, the
share of each class, how many rows were cut at `--max-length`, and what accuracy the most frequent class has.

`--metrics macro_f1` adds a metric; `--best-metric valid/classify/macro_f1` chooses the best checkpoint by it.
"""

from pathlib import Path

from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.classify import Classify
from bert_jax.tasks.classification import Classification
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    return Experiment(
        task=Classification(Tables("train.csv")),
        learner=Multitask(None, {"classify": Classify()}),
        optimizer=BertAdam(learning_rate=5e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        dropout=0.1,
        batch_size=32,
        epochs=3.0,
        best_metric="valid/classify/accuracy",
    )


if __name__ == "__main__":
    main(config)

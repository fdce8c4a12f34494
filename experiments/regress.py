"""Fine-tunes a pre-trained encoder to give your own texts, or pairs of texts, a number.

    python experiments/regress.py --workdir runs/similarity --init-from bert-base-uncased \
        --data.train pairs.csv --data.text-columns first second --data.label-column similarity

The loss is the squared error; Pearson's and Spearman's correlation are measured on held-out rows, a tenth of the file
unless `--data.valid` names others. Files and the log before the training are as in `experiments/classify.py`. Scores
should be of a few units, as the 0 to 5 of STS-B are: a new head answers about 0, and is slow to get far from there.
"""

from pathlib import Path

from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.regress import Regress
from bert_jax.tasks.regression import Regression
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    return Experiment(
        task=Regression(Tables("train.csv", label_column="score")),
        learner=Multitask(None, {"regress": Regress()}),
        optimizer=BertAdam(learning_rate=5e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        dropout=0.1,
        batch_size=32,
        epochs=3.0,
        best_metric="valid/regress/spearman",
    )


if __name__ == "__main__":
    main(config)

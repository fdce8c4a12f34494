"""Fine-tunes a pre-trained encoder to give your own texts, or pairs of texts, any number of labels each.

    python experiments/multilabel.py --workdir runs/topics --init-from bert-base-uncased \
        --data.train articles.jsonl --data.text-columns body --data.label-column topics

The label field holds a list, or labels joined by `--separator` ("sport|politics"); where it is empty, none applies.
Every label has a probability of its own, and is predicted from 0.5 on. Files, held-out rows and the log before the
training are as in `experiments/classify.py`.
"""

from pathlib import Path

from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.tasks.multilabel import MultiLabels
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    return Experiment(
        task=MultiLabels(Tables("train.csv", label_column="labels")),
        learner=Multitask(None, {"multilabel": MultiLabel()}),
        optimizer=BertAdam(learning_rate=5e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        dropout=0.1,
        batch_size=32,
        epochs=3.0,
        best_metric="valid/multilabel/micro_f1",
    )


if __name__ == "__main__":
    main(config)

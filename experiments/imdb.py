"""Fine-tunes a pre-trained encoder on IMDb, the sentiment of whole film reviews (Maas et al. 2011).

    python experiments/imdb.py --workdir runs/imdb --init-from runs/mini \
        --data.train imdb/train.jsonl --data.valid imdb/test.jsonl

Three epochs of 32 reviews, cut to the rows that the encoder was pre-trained on. `--random-weights` is the same from
scratch.
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
        task=Classification(Tables("imdb/train.jsonl", ("imdb/test.jsonl",)), max_length=128, name="IMDb"),
        learner=Multitask(None, {"classify": Classify()}),
        optimizer=BertAdam(learning_rate=1e-4, warmup=0.1),
        init_from=Path("runs/mini"),
        dropout=0.1,
        batch_size=32,
        epochs=3.0,
        best_metric="valid/classify/accuracy",
        log_every=100,
    )


if __name__ == "__main__":
    main(config)

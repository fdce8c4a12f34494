"""Fine-tunes a pre-trained encoder on SQuAD 2.0, where half of the questions have no answer (Devlin et al. 2018, 4.3).

    python experiments/squad2.py --workdir runs/squad2 --init-from bert-base-uncased \
        --data.train train-v2.0.json --data.valid dev-v2.0.json

or `--data.train tfds:squad/v2.0@train --data.valid tfds:squad/v2.0@validation`. Two epochs at 5e-5 with batches of 48
as in the paper. `exact_match` and `f1` are those at `--no-answer-threshold`, 0 by default; `best_f1` is that of the
best threshold for the held-out questions themselves, and `best_f1_threshold` is what to set for others. Published for
BERT-large, dev set: exact match 78.7, F1 81.9; the paper has none for BERT-base.
"""

from pathlib import Path

from bert_jax.data.squad import SquadFiles
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.span import Span
from bert_jax.tasks.answering import Answering
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    data = SquadFiles("train-v2.0.json", ("dev-v2.0.json",), unanswerable=True)
    return Experiment(
        task=Answering(data, name="SQuAD 2.0"),
        learner=Multitask(None, {"span": Span()}),
        optimizer=BertAdam(learning_rate=5e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        dropout=0.1,
        batch_size=48,
        eval_batch_size=64,
        epochs=2.0,
        best_metric="valid/span/best_f1",
        log_every=100,
        eval_every=2000,
        checkpoint_every=2000,
    )


if __name__ == "__main__":
    main(config)

"""Fine-tunes a pre-trained encoder on SQuAD 1.1, answers as spans of a text (Devlin et al. 2018, section 4.2, table 2).

    python experiments/squad.py --workdir runs/squad --init-from bert-base-uncased \
        --data.train train-v1.1.json --data.valid dev-v1.1.json

or `--data.train tfds:squad@train --data.valid tfds:squad@validation`. Three epochs at 5e-5 with batches of 32 as in the
paper; the original's example runs two at 3e-5 with batches of 12 (google-research/bert README), which
`--epochs 2 --optimizer.learning-rate 3e-5 --batch-size 12` are. An epoch counts windows, of which there are a few more
than questions; the original counts questions. `--data.valid` with nothing behind it holds out a tenth of the articles.
Published for BERT-base, dev set: exact match 80.8, F1 88.5. `tools/squad_predictions.py` turns the predictions file of
a run into what the official evaluation script reads.
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
    return Experiment(
        task=Answering(SquadFiles("train-v1.1.json", ("dev-v1.1.json",)), name="SQuAD 1.1"),
        learner=Multitask(None, {"span": Span()}),
        optimizer=BertAdam(learning_rate=5e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        dropout=0.1,
        batch_size=32,
        eval_batch_size=64,
        epochs=3.0,
        best_metric="valid/span/f1",
        log_every=100,
        eval_every=2000,
        checkpoint_every=2000,
    )


if __name__ == "__main__":
    main(config)

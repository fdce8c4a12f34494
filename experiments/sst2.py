"""Fine-tunes a pre-trained encoder on SST-2, the sentiment of film-review sentences (Devlin et al. 2018, table 1).

    python experiments/sst2.py --workdir runs/sst2 --init-from runs/mini \
        --data.train SST-2/train.tsv --data.valid SST-2/dev.tsv

Three epochs of 32 sentences; the paper searches the learning rate over 5e-5, 3e-5, 2e-5, Turc et al. 2019 for the
small models over 3e-4, 1e-4, 5e-5, 3e-5. `--random-weights` is the same from scratch. Published for BERT-mini: 85.9
(test set, google-research/bert README).
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
        task=Classification(
            Tables("SST-2/train.tsv", ("SST-2/dev.tsv",), text_columns=("sentence",)), max_length=64, name="SST-2"
        ),
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

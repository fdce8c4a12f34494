"""Fine-tunes a pre-trained encoder on SWAG, the likeliest continuation of a scene (Devlin et al. 2018, section 4.4).

    python experiments/swag.py --workdir runs/swag --init-from bert-base-uncased \
        --data.train train.csv --data.valid val.csv

with the CSV files of rowanz/swagaf. Three epochs of 16 questions at 2e-5, as in the paper (table 4). A question is four
rows, the first sentence and the second with one of its four ends, so a batch has 64 rows. Published for BERT-base, dev
set: accuracy 81.6.
"""

from pathlib import Path

from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.choice import Choice
from bert_jax.tasks.choice import MultipleChoice
from bert_jax.train import main
from bert_jax.training.optim import BertAdam

ENDINGS = ("ending0", "ending1", "ending2", "ending3")


def config() -> Experiment:
    return Experiment(
        task=MultipleChoice(
            Tables("train.csv", ("val.csv",), text_columns=("sent1", "sent2", *ENDINGS)),
            choice_columns=ENDINGS,
            opening_column="sent2",
            answer_keys=("0123",),
            name="SWAG",
        ),
        learner=Multitask(None, {"choice": Choice()}),
        optimizer=BertAdam(learning_rate=2e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        dropout=0.1,
        batch_size=16,
        eval_batch_size=64,
        epochs=3.0,
        best_metric="valid/choice/accuracy",
        log_every=100,
        eval_every=2000,
        checkpoint_every=2000,
    )


if __name__ == "__main__":
    main(config)

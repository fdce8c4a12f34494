"""Pre-trains BERT on masked language modelling and next sentence prediction (Devlin et al. 2018, section 3.1).

    python tools/train_tokenizer.py TEXT... --output runs/vocab --vocab-size 8192
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/vocab --output runs/corpus
    python experiments/pretrain.py --workdir runs/mini --corpus runs/corpus

The defaults are a BERT-mini on one machine: 20,000 updates of 64 rows of 128 tokens. The paper's base model: edit the
size, and `--batch-size 256 --steps 1000000 --optimizer.warmup 10000 --optimizer.learning-rate 1e-4`, with rows of 128
for 90 % of the updates and of 512 for the rest.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    return Experiment(
        task=Pretraining(Path("runs/corpus")),
        learner=Multitask(bert("mini"), {"mlm": Mlm(), "nsp": Nsp()}),
        optimizer=BertAdam(learning_rate=1e-3, warmup=0.05),
        batch_size=64,
        steps=20_000,
        eval_every=1000,
        checkpoint_every=500,
    )


if __name__ == "__main__":
    main(config)

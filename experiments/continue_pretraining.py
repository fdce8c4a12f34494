"""Continues the pre-training of a model on one's own text (Gururangan et al. 2020, arXiv 2004.10964).

    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer MODEL --output runs/domain
    python experiments/continue_pretraining.py --workdir runs/continued --init-from MODEL --corpus runs/domain \
        --also runs/wikipedia

MODEL is all that `bert_jax.load` opens: a run, a Hugging Face or Google folder, a name on the hub. The optimizer is
new, the learning rate low. A model that comes without an MLM head gets a new one, which the log says. `--also`
names corpora whose held-out splits are evaluated, too: what is gained in the new domain and what is lost in the old
one. The first evaluation is before the first update. The perplexity is exp of `mlm/loss`.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.mlm import Mlm
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    return Experiment(
        task=Pretraining(Path("runs/domain")),
        learner=Multitask(None, {"mlm": Mlm()}),
        optimizer=BertAdam(learning_rate=5e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        batch_size=32,
        steps=2000,
        eval_first=True,
        eval_every=500,
        checkpoint_every=500,
    )


if __name__ == "__main__":
    main(config)

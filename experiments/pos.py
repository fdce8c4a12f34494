"""Fine-tunes a pre-trained encoder on parts of speech: UPOS of the English Web Treebank (universaldependencies.org).

    python experiments/pos.py --workdir runs/ewt --init-from runs/mini \
        --data.train en_ewt-ud-train.conllu --data.valid en_ewt-ud-dev.conllu

12,544 and 2,001 sentences; accuracy over words. `--data.tag-column 5` takes the language's own tags, XPOS.
"""

from pathlib import Path

from bert_jax.data.conll import TaggedFiles
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.tag import Tag
from bert_jax.tasks.tagging import Tagging
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    return Experiment(
        task=Tagging(
            TaggedFiles("en_ewt-ud-train.conllu", ("en_ewt-ud-dev.conllu",), scheme="plain"),
            max_length=128,
            name="EWT",
        ),
        learner=Multitask(None, {"tag": Tag()}),
        optimizer=BertAdam(learning_rate=1e-4, warmup=0.1),
        init_from=Path("runs/mini"),
        dropout=0.1,
        batch_size=32,
        epochs=3.0,
        best_metric="valid/tag/accuracy",
        log_every=100,
    )


if __name__ == "__main__":
    main(config)

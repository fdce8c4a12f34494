"""Pre-trains a RoBERTa (Liu et al. 2019, arXiv 1907.11692): masked language modelling alone, in very large batches.

    python tools/train_tokenizer.py TEXT... --output runs/bpe --kind bpe --vocab-size 50265
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/bpe --output runs/corpus512 \
        --max-seq-length 512 --rows full-sentences --short-seq-prob 0 --dupe-factor 1
    python experiments/pretrain_roberta.py --workdir runs/roberta --corpus runs/corpus512

The settings are those of the paper's table 9 (appendix):

| | base | large |
|---|---|---|
| learning rate | 6e-4 | 4e-4 |
| warm-up | 24,000 | 30,000 |
| updates of 8,192 rows of 512 | 500,000 | 500,000 |
| Adam | 0.9, 0.98, epsilon 1e-6, weight decay 0.01, no clipping, linear to 0 | the same |

For large: `roberta("large")` in this file, `--optimizer.learning-rate 4e-4 --optimizer.warmup 30000`. Masks are drawn
anew at every visit (section 4.1); 15 % of 512 tokens are 77. As in fairseq, Adam corrects the bias of its moments, and
everything is decayed. A batch is computed in micro-batches (`--accumulate`), so that it runs on any number of devices:
the default makes them of 128 rows. On one machine: `roberta("mini")` and `--batch-size 64 --accumulate 1 --steps 20000
--optimizer.warmup 1000`.

The rows are the paper's full sentences (section 4.2): one segment filled with sentences up to 512 tokens, which goes on
with the next document behind a `</s>`. A sentence longer than a row is cut there, and a row ends with its shard, of
about 4 million tokens. Nothing of this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.roberta import roberta
from bert_jax.objectives.mlm import Mlm
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import AdamW


def config() -> Experiment:
    return Experiment(
        task=Pretraining(Path("runs/corpus512")),
        learner=Multitask(roberta("base"), {"mlm": Mlm(max_predictions=77, activation="gelu", norm_epsilon=1e-5)}),
        optimizer=AdamW(learning_rate=6e-4, warmup=24_000, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=None),
        batch_size=8192,
        accumulate=64,
        steps=500_000,
        eval_every=5000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

"""Pre-trains a ModernBERT (Warner et al. 2024, arXiv 2412.13663): masked language modelling of 30 % of the tokens.

    python tools/train_tokenizer.py TEXT... --output runs/bpe --kind bpe --vocab-size 50368
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/bpe --output runs/corpus1024 \
        --max-seq-length 1024 --short-seq-prob 0 --dupe-factor 1 --rows doc-sentences
    python experiments/pretrain_modernbert.py --workdir runs/modernbert --corpus runs/corpus1024

The settings are those of the base model's first phase, as released (AnswerDotAI/ModernBERT,
yamls/modernbert/modernbert-base-pretrain.yaml):

| | |
|---|---|
| rows | 4,608 of 1,024 tokens, in micro-batches of 96; 1,719 billion tokens, so 364,300 updates |
| masked | 30 %: 80 % as [MASK], 10 % as a random token, 10 % as they are; no pairs |
| optimizer | StableAdamW 0.9, 0.98, epsilon 1e-6, weight decay 1e-5 beside the learning rate, no clipping |
| learning rate | up to 8e-4 in 3 billion tokens (636 updates), then constant |
| dropout | 0.1 on the attention's output, none elsewhere |
| angles of positions | base 10,000 in every layer |

The phases after it (section 2.2.2) are runs that begin with the one before: 250 billion tokens of rows of 8,192 at a
constant 3e-4, with base 160,000 in the global layers, and 50 billion in which the rate falls to 0 as 1 - sqrt:

    python experiments/pretrain_modernbert.py --workdir runs/extended --corpus runs/corpus8192 \
        --init-from runs/modernbert --init-optimizer --learner.encoder.global-theta 160000 --batch-size 576 \
        --accumulate 48 --learner.objectives.mlm.max-predictions 2458 --optimizer.learning-rate 3e-4 \
        --optimizer.warmup 0 --steps 53000

and the same with `--init-from runs/extended --optimizer.decay 10600 --steps 10600`. For large: `modernbert("large")` in
this file and `--optimizer.learning-rate 5e-4`, with which the authors' loss stopped falling after 900 billion tokens:
they went on with 5e-5; what else the paper changes for large is not followed here. On one machine: `modernbert("mini")`
and `--batch-size 64 --accumulate 1 --steps 20000 --optimizer.warmup 1000`.

Where it differs: the batch is of one size, where theirs grows over the first 50 billion tokens; a row of the batch is a
piece of one document, several of which are computed in one row, where theirs is such a row; [CLS] and [SEP] are never
masked; held-out loss is at 30 %, theirs at 15 %; large begins with random weights, where theirs begins with those of
base, tiled. The text is not theirs, which is not public. The batches of the two later phases are of as many tokens as
those of the first. Nothing of this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.modernbert import modernbert
from bert_jax.objectives.mlm import Mlm
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.stable import StableAdamW


def config() -> Experiment:
    encoder = modernbert("base", dropout=0.1, global_theta=10_000.0)
    head = Mlm(
        max_predictions=307,
        rate=0.3,
        activation="gelu",
        norm_epsilon=1e-5,
        init_stddev=encoder.out_stddev,
        use_bias=False,
    )
    return Experiment(
        task=Pretraining(Path("runs/corpus1024")),
        learner=Multitask(encoder, {"mlm": head}),
        optimizer=StableAdamW(learning_rate=8e-4, warmup=636),
        batch_size=4608,
        accumulate=48,
        steps=364_300,
        eval_every=4000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

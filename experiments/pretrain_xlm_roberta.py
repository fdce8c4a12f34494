"""Pre-trains an XLM-R (Conneau et al. 2019, arXiv 1911.02116): RoBERTa on a hundred languages, under one vocabulary.

    python tools/train_tokenizer.py TEXT... --output runs/xlm-vocab --kind xlm-roberta --vocab-size 250002
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/xlm-vocab --output runs/xlm512 \
        --max-seq-length 512 --rows full-sentences --short-seq-prob 0 --dupe-factor 1
    python experiments/pretrain_xlm_roberta.py --workdir runs/xlm-roberta --corpus runs/xlm512

As in section 3: 250,000 pieces of one SentencePiece model; base has 12 layers of width 768, large 24 of 1024
(`roberta("large")` in this file); 1.5 million updates of 8,192 rows; masked language modelling alone, no language
embeddings. What the paper does not say is as in `experiments/pretrain_roberta.py`. A batch is computed in micro-batches
(`--accumulate`) of 128 rows.

`bert_jax.load` opens the released models, which have the same encoder, and `save` writes the folder of an
`xlm-roberta`: the tokenizer is what tells it from RoBERTa.

Where it differs: languages are as frequent as they are in the text that is given, here and in the vocabulary. The paper
draws those with little text more often, by the share of their text to the power of 0.3; repeat their files for that.
Nothing of this size has been measured here.
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
        task=Pretraining(Path("runs/xlm512")),
        learner=Multitask(roberta("base"), {"mlm": Mlm(max_predictions=77, activation="gelu", norm_epsilon=1e-5)}),
        optimizer=AdamW(learning_rate=6e-4, warmup=24_000, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=None),
        batch_size=8192,
        accumulate=64,
        steps=1_500_000,
        eval_every=5000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

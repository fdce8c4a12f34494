"""Pre-trains an MPNet (Song et al. 2020, arXiv 2004.09297): the last 15 % of a permutation of each row are predicted,
one after another, while the positions of all of it are seen.

    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/mpnet-vocab --output runs/rows512 \
        --max-seq-length 512 --rows full-sentences --short-seq-prob 0 --dupe-factor 1
    python experiments/pretrain_mpnet.py --workdir runs/mpnet --corpus runs/rows512

The vocabulary is BERT's between fairseq's special tokens: `transformers` counts positions from the id that `<pad>` has.

    python tools/train_tokenizer.py TEXT... --vocab-size 30522 --output runs/vocab
    mkdir runs/mpnet-vocab
    (printf '%s\\n' '<s>' '<pad>' '</s>' '<unk>'; cat runs/vocab/vocab.txt; echo '<mask>') > runs/mpnet-vocab/vocab.txt

From the paper (section 3): the size of BERT-base, BERT's vocabulary, rows of up to 512 tokens, batches of 8,192, Adam
with 0.9, 0.98 and epsilon 1e-6, weight decay 0.01, 500,000 updates, whole words, relative positions. From the command
in the README of the released code: a learning rate of 5e-4, after 10,000 updates of warm-up linear to 0, no clipping,
rows of full sentences; it trains 125,000 updates on less data.

What is trained is encoder and head of a masked LM, which `load(workdir).save(folder)` writes as an MPNetForMaskedLM.
Ablations of the paper: `Multitask(mpnet("base"), {"mlm": Mlm(...)})` in this file has the masked LM alone. On one
machine: `mpnet("mini")` and `--batch-size 64 --accumulate 1 --steps 20000 --optimizer.warmup 1000`.

Fine-tuning has a hidden layer in the classifier, as RoBERTa's:

    python experiments/glue.py --task RTE --folder GLUE --workdir runs/rte --init-from runs/mpnet --epochs 10 \
        --learner.objectives.classify.hidden tanh

Where it differs: rows are computed with both streams, 512 + 2 x 77 tokens, and not packed. A row has at least one token
to predict, at most 77; there, as many as 15 % of the longest of the batch, padding included. As there, special tokens
are among those that are predicted, which the accuracy counts, and what answers reach without looking does not. Nothing
of this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.mpnet import MaskedPermuted
from bert_jax.models.mpnet import mpnet
from bert_jax.objectives.mlm import Mlm
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import AdamW


def config() -> Experiment:
    mlm = Mlm(max_predictions=77, whole_word=True, activation="gelu", norm_epsilon=1e-5)
    return Experiment(
        task=Pretraining(Path("runs/rows512")),
        learner=MaskedPermuted(mpnet("base"), {"mlm": mlm}),
        optimizer=AdamW(learning_rate=5e-4, warmup=10_000, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=None),
        padding="trimmed",
        batch_size=8192,
        accumulate=64,
        steps=500_000,
        eval_every=5000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

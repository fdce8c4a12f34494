"""Pre-trains an FNet (Lee-Thorp et al. 2021, arXiv 2105.03824): BERT's objectives, a Fourier transform for attention.

    python tools/train_tokenizer.py TEXT... --output runs/spm --kind sentencepiece --cased --vocab-size 32000
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/spm --output runs/spm512 \
        --max-seq-length 512 --short-seq-prob 0 --dupe-factor 1
    python experiments/pretrain_fnet.py --workdir runs/fnet --corpus runs/spm512

The settings are those of the released code (google-research/f_net, `configs/pretraining.py`): FNet-base (for large
`fnet("large")` in this file), batches of 64 rows of 512, a million updates, Adam with a learning rate of 1e-4 after
10,000 updates of warm-up, linear to 0, epsilon 1e-6, weight decay 0.01 on everything, no clipping; at most 80 predicted
tokens. Padding is computed as any token (`models.fnet`), so rows are never packed: `padding` is "full", and rows of the
corpus are as long as the encoder's `max_length`; in fine-tuning, too: `--padding full --max-length 512`. On several
devices: `--learner.encoder.fourier matmul`. On one machine: `fnet("mini", max_length=128)`, a corpus of
`--max-seq-length 128` and `--steps 20000 --optimizer.warmup 1000`.

Where it differs: NSP is BERT's, as in the paper; the released code labels whether two halves of a text were swapped,
which is `Sop` over a corpus of `--pairs order`. Its vocabulary is a BPE of C4, and any SentencePiece model does here.
Biases start at 0, there those of the wide layers do not. Nothing of this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.fnet import fnet
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import AdamW


def config() -> Experiment:
    return Experiment(
        task=Pretraining(Path("runs/spm512")),
        learner=Multitask(fnet("base"), {"mlm": Mlm(max_predictions=80), "nsp": Nsp()}),
        optimizer=AdamW(learning_rate=1e-4, warmup=10_000, eps=1e-6, weight_decay=0.01, clip_norm=None),
        batch_size=64,
        steps=1_000_000,
        padding="full",
        eval_every=2000,
        checkpoint_every=2000,
    )


if __name__ == "__main__":
    main(config)

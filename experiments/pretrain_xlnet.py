"""Pre-trains an XLNet (Yang et al. 2019, arXiv 1906.08237): a sixth of the tokens in a random order, in two streams.

    python tools/train_tokenizer.py TEXT... --output runs/spm --kind sentencepiece --cased --vocab-size 32000
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/spm --output runs/spm512 \
        --max-seq-length 512 --short-seq-prob 0 --dupe-factor 1
    python experiments/pretrain_xlnet.py --workdir runs/xlnet --corpus runs/spm512

The settings are those of XLNet-large (section 3.1 and appendix A.4.1, the table of hyperparameters):

| | |
|---|---|
| rows | 8,192 of 512 tokens, two segments of which one in two follows the other, without a loss of its own |
| predicted | 85 tokens of a row, K = 6, in n-grams up to 5 words, p(n) as 1 / n (zihangdai/xlnet `data_utils.py`) |
| steps | 500,000, of which 40,000 are warm-up |
| Adam | learning rate 4e-4, linear to 0, epsilon 1e-6, weight decay 0.01, clipping at 1 (`train.py`) |
| dropout | 0.1 |

For base: `--size base`. The activation is the original's GELU, the tanh approximation. A batch is computed in
micro-batches (`--accumulate`), so that it runs on any number of devices: the default makes them of 32 rows. On one
machine: `--size mini --batch-size 64 --accumulate 1 --steps 20000 --optimizer.warmup 1000`.

Segment recurrence is an option: rows are of 4,096 tokens of running text, computed in chunks of 512, and each sees 384
columns before it (zihangdai/xlnet README.md, `mem_len`), in the states that they had in their own chunk. The corpus is
then made with `--rows stream --max-seq-length 4096`, and a batch has an eighth of the rows:

    python experiments/pretrain_xlnet.py --chunk 512 --memory 384 --workdir runs/xlnet --corpus runs/spm4096 \
        --batch-size 1024 --accumulate 32

Where it differs: rows are not packed. Without a memory a whole row has one order, where there each half has its own.
With it, a row's chunks are computed in one step, so what is remembered is never older than the parameters, but ends
with the row; there it goes from batch to batch, rows overlap by half, and a row ends with a segment that may be from
elsewhere. No row is read backwards. `[CLS]` stands first in the rows that are made here and last in theirs, and so does
the token that a head over texts reads: fine-tuned from the released weights, that is a `[SEP]`. Nothing of this size
has been measured here.
"""

from pathlib import Path
from typing import Literal

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.xlnet import xlnet
from bert_jax.objectives.ngrams import Ngrams
from bert_jax.objectives.plm import Plm
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import BertAdam

Size = Literal["tiny", "mini", "small", "medium", "base", "large"]


def config(size: Size = "large", chunk: int = 0, memory: int = 0) -> Experiment:
    encoder = xlnet(size, max_length=8 * chunk or 512, chunk=chunk, memory=memory)
    return Experiment(
        task=Pretraining(Path("runs/spm512")),
        learner=Multitask(encoder, {"plm": Plm(masking=Ngrams(longest=5), chunk=chunk)}),
        optimizer=BertAdam(learning_rate=4e-4, warmup=40_000),
        padding="trimmed",
        batch_size=8192,
        accumulate=256,
        steps=500_000,
        eval_every=5000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

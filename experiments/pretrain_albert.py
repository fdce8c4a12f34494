"""Pre-trains an ALBERT (Lan et al. 2019, arXiv 1909.11942): n-grams and the order of sentences, few parameters, LAMB.

    python tools/train_tokenizer.py TEXT... --output runs/spm --kind sentencepiece --vocab-size 30000
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/spm --output runs/order512 \
        --max-seq-length 512 --pairs order
    python experiments/pretrain_albert.py --workdir runs/albert --corpus runs/order512

The settings are those of sections 3.1 and 4.1, and the defaults of google-research/albert (create_pretraining_data.py,
run_pretraining.py), for every size (`--size xxlarge` is the largest):

| | |
|---|---|
| rows | 4,096 of 512 tokens, one document in ten with shorter ones |
| predicted | n-grams of whole words, n up to 3, p(n) as 1 / n; 15 % of a row, at most 20 tokens |
| steps | 125,000, of which 3,125 are warm-up; the released models have more (version 2: base 10 M, the others 3 M) |
| LAMB | learning rate 1.76e-3, linear to 0, weight decay 0.01, as the authors' code has it (`training.lamb.VARIANTS`) |
| dropout | 0, as in version 2; `--learner.encoder.dropout 0.1 --learner.encoder.attention-dropout 0.1` for version 1 |

The sum of both losses is minimised. A batch is computed in micro-batches (`--accumulate`), so that it runs on any
number of devices: the default makes them of 64 rows. On one machine: `--size mini --batch-size 64 --accumulate 1
--steps 20000 --optimizer.warmup 500 --optimizer.learning-rate 2.2e-4`; the rate goes with the root of the batch.

Where it differs: masks are drawn anew at every visit, while the original's data has 40 copies of the text with a mask
each (here `--dupe-factor` 10, of pairs and their order alone); a word is what stands between spaces, while there a
punctuation mark is one of its own, as is a piece with other letters than English ones; the vocabulary keeps accents,
which the released one has not. Nothing of this size has been measured here.
"""

from pathlib import Path
from typing import Literal

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.albert import albert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.ngrams import Ngrams
from bert_jax.objectives.sop import Sop
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.lamb import lamb

Size = Literal["tiny", "mini", "small", "medium", "base", "large", "xlarge", "xxlarge"]


def config(size: Size = "base") -> Experiment:
    return Experiment(
        task=Pretraining(Path("runs/order512")),
        learner=Multitask(albert(size), {"mlm": Mlm(max_predictions=20, masking=Ngrams()), "sop": Sop()}),
        optimizer=lamb("authors", learning_rate=1.76e-3, warmup=3125),
        batch_size=4096,
        accumulate=64,
        steps=125_000,
        eval_every=5000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

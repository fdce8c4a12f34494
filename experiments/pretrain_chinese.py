"""BERT-wwm: continues the Chinese BERT with whole-word masking (Cui et al. 2019, arXiv 1906.08101).

    pip install 'bert_jax[chinese]'
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer MODEL --output runs/zh128 \
        --language zh --segmenter jieba
    python experiments/pretrain_chinese.py --workdir runs/wwm --init-from MODEL --corpus runs/zh128

MODEL is `google-bert/bert-base-chinese`, or all else that `bert_jax.load` opens. Its pieces are characters; which of
them are a word is found when the corpus is prepared, by jieba or, where the text comes segmented already, by the spaces
in it (`--segmenter spaces`). Nothing else is changed: 80/10/10 is decided for each character, and a model that was
trained so is used like any other.

The paper continues from that checkpoint, in two phases with LAMB (section 2): 100,000 steps of 2,560 rows of 128, which
is this file, then as many of 384 rows of 512: `--corpus` of one with `--max-seq-length 512`, `--init-from runs/wwm`,
`--batch-size 384 --accumulate 4 --learner.objectives.mlm.max-predictions 77`.

Where it differs: the paper's words are those of LTP, another segmenter. Its numbers were not compared with the paper
itself, and nothing of this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.lamb import Lamb


def config() -> Experiment:
    return Experiment(
        task=Pretraining(Path("runs/zh128")),
        learner=Multitask(None, {"mlm": Mlm(whole_word=True, activation="gelu"), "nsp": Nsp()}),
        optimizer=Lamb(learning_rate=1e-4, warmup=0.1, decay_power=1.0),
        init_from=Path("google-bert/bert-base-chinese"),
        batch_size=2560,
        accumulate=20,
        steps=100_000,
        eval_every=5000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

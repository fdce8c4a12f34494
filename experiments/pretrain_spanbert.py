"""Pre-trains a SpanBERT (Joshi et al. 2019, arXiv 1907.10529): spans of words are masked and predicted twice, by the
masked LM and from the two tokens around them; rows of one segment, no next sentence prediction.

    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/vocab --output runs/rows512 \
        --max-seq-length 512 --rows doc-sentences --short-seq-prob 0 --dupe-factor 1
    python experiments/pretrain_spanbert.py --workdir runs/spanbert --corpus runs/rows512

The settings are the paper's (section 4.2): BERT-base (for large `bert("large")` in this file) with the exact GELU and
no pooler; batches of 256 rows of up to 512 tokens that end with their document; 2.4 M updates; AdamW with a learning
rate of 1e-4 after 10,000 updates of warm-up, linear to 0, epsilon 1e-8, weight decay 0.1. Spans have 3.8 words on
average, 15 % of the tokens are predicted (77 of 512), masks are drawn anew at every visit. The paper names no clipping
of gradients. Measure the objective alone: `--learner.weights sbo 0` is span masking without the boundary objective.

The encoder is `models.bert.Bert`: `load(workdir).save(folder, heads=["mlm"])` is a BertForMaskedLM. On one machine:
`bert("mini", activation="gelu", pooler=False)` and `--batch-size 64 --steps 20000 --optimizer.warmup 1000`. Nothing of
this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.sbo import Sbo
from bert_jax.objectives.spans import Spans
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import AdamW


def config() -> Experiment:
    mlm = Mlm(max_predictions=77, masking=Spans(), activation="gelu")
    return Experiment(
        task=Pretraining(Path("runs/rows512")),
        learner=Multitask(bert("base", activation="gelu", pooler=False), {"mlm": mlm, "sbo": Sbo()}),
        optimizer=AdamW(learning_rate=1e-4, warmup=10_000, eps=1e-8, weight_decay=0.1, clip_norm=None),
        batch_size=256,
        steps=2_400_000,
        eval_every=5000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

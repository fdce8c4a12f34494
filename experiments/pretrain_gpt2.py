"""Pre-trains a GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), which predicts each
token from those before it.

    python tools/train_tokenizer.py TEXT... --output runs/bpe --kind gpt2 --vocab-size 50257
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer runs/bpe --output runs/stream1024 \
        --max-seq-length 1024 --rows stream --short-seq-prob 0 --dupe-factor 1
    python experiments/pretrain_gpt2.py --workdir runs/gpt2 --corpus runs/stream1024

OpenAI published the model, not its training. What is used here, and where it is from:

| | | source |
|---|---|---|
| vocabulary, row, batch | 50,257 pieces, 1,024 tokens, 512 rows | Radford et al. 2019, section 2.3 |
| initial weights of the residual projections | scaled by 1 / sqrt(2 N) | the same |
| learning rate | 2.5e-4 after 2,000 updates, cosine to 0 | Radford et al. 2018 (GPT), section 4.1; GPT-2's is unknown |
| Adam, dropout | 0.9, 0.999; decay 0.01 but of biases and gains; 0.1 everywhere | the same |
| clipping | 1 | GPT's code, openai/finetune-transformer-lm `train.py` |
| updates | 600,000, 315 billion tokens | karpathy/nanoGPT `config/train_gpt2.py`; GPT-2's are not known |

nanoGPT reaches a loss of about 2.85 on OpenWebText with the settings that GPT-3's paper has for this size (Brown et al.
2020, table 2.1 and appendix B): `--optimizer.learning-rate 6e-4 --optimizer.b2 0.95 --optimizer.weight-decay 0.1
--optimizer.floor 0.1 --learner.encoder.dropout 0 --learner.encoder.attention-dropout 0`.

A batch is computed in micro-batches (`--accumulate`): the default makes them of 8 rows. On one machine: `gpt2("mini")`
in this file, and `--batch-size 32 --accumulate 1 --steps 20000`. What it has learned to write:

    python -c "import bert_jax; print(bert_jax.load('runs/gpt2').generate('The city', 100, top_k=40))"

With the released vocabulary write `"add_prefix_space": true` into its tokenizer_config.json before the corpus is made:
sentences are encoded one by one, and would lose the space between them. Nothing of this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.gpt2 import gpt2
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.cosine import CosineAdamW


def config() -> Experiment:
    return Experiment(
        task=Pretraining(Path("runs/stream1024")),
        learner=Multitask(gpt2("small"), {"lm": CausalLm(transform=False)}),
        optimizer=CosineAdamW(),
        batch_size=512,
        accumulate=64,
        steps=600_000,
        eval_every=5000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

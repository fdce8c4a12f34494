"""Pre-trains an ELECTRA (Clark et al. 2020, arXiv 2003.10555): a generator replaces tokens, the model finds which.

    python experiments/pretrain_electra.py --workdir runs/electra --corpus runs/corpus128

The settings are those of the paper's table 6 (appendix A), as google-research/electra has them
(configure_pretraining.py); here they are those of small:

| | small | base | large |
|---|---|---|---|
| generator's width, of the discriminator's | 1/4 | 1/3 | 1/4 |
| masked | 15 % | 15 % | 25 % |
| learning rate | 5e-4 | 2e-4 | 2e-4 |
| warm-up | 10,000 | 10,000 | 10,000 |
| updates | 1,000,000 | 766,000 | 400,000 |
| rows in a batch | 128 | 256 | 2,048 |
| tokens in a row | 128 | 512 | 512 |
| BERT's Adam | 0.9, 0.999, epsilon 1e-6, weight decay 0.01, clipped at 1, linear to 0 | the same | the same |

For base: `electra("base")` and `generator_size=SIZES["base"][3]` in this file, a corpus of rows of 512, and
`--learner.objectives.mlm.max-predictions 79 --optimizer.learning-rate 2e-4 --batch-size 256 --steps 766000`. On one
machine: `--batch-size 32 --steps 20000 --optimizer.warmup 1000`.

What calls every token original has `rtd/accuracy` 1 - `rtd/replaced`; `rtd/found` of `rtd/replaced` is what is found.
The run is opened as the discriminator. Its generator is in the checkpoints, too, and a model of its own by

    run = Path("runs/electra")
    learner, params = load_experiment(run).learner, restore_params(run / "checkpoints", None)
    Pretrained(*learner.generator_alone(params), load(run).tokenizer).save("runs/generator")

To fine-tune (table 7 and configure_finetuning.py), with learning rates that fall from layer to layer, and a hidden
layer in the classifier, which `transformers` has and the original has not:

    python experiments/glue.py --task RTE --folder GLUE --workdir runs/rte --init-from runs/electra --epochs 10 \
        --learner.objectives.classify.hidden gelu --optimizer.layer-decay 0.8 --optimizer.learning-rate 3e-4

Ten epochs for RTE and STS-B (`--learner.objectives.regress.hidden gelu`), two for SQuAD, three for the others; the
learning rate is 1e-4 for base, 5e-5 with a decay of 0.9 for large. ELECTRA-small has 79.9 on GLUE's dev set after four
days on one GPU, BERT-small 75.1 (table 1).

Where it differs: a masked token is always shown as [MASK], as the paper says; the original's code shows 15 % of them as
they are: `--learner.objectives.mlm.mask-share 0.85`. There, positions are drawn with replacement, the learning rate
falls during the warm-up, too, and in fine-tuning each layer's has one more factor of 0.8. The rows are
`[CLS] A [SEP] B [SEP]` as BERT's data has them, where more than half of the second segments are of another document;
nothing is predicted of the pair. Nothing of this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.electra import GeneratorDiscriminator
from bert_jax.models.electra import SIZES, electra
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.rtd import Rtd
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    generator = Mlm(max_predictions=19, mask_share=1.0, random_share=0.0, activation="gelu")
    return Experiment(
        task=Pretraining(Path("runs/corpus128")),
        learner=GeneratorDiscriminator(
            electra("small"), {"mlm": generator, "rtd": Rtd()}, generator_size=SIZES["small"][3]
        ),
        optimizer=BertAdam(learning_rate=5e-4, warmup=10_000),
        batch_size=128,
        steps=1_000_000,
        eval_every=10_000,
        checkpoint_every=1000,
    )


if __name__ == "__main__":
    main(config)

"""Pre-trains a BERT-large with LAMB and batches of 65,536 rows: NVIDIA's recipe, in two phases.

    python experiments/pretrain_lamb.py --workdir runs/large \
        --phase-1.corpus runs/corpus128 --phase-2.corpus runs/corpus512

Corpora as for `experiments/pretrain_two_phases.py`, with `--dupe-factor 5`. Source: NVIDIA/DeepLearningExamples,
PyTorch/LanguageModeling/BERT, scripts/configs/pretrain_config.sh and run_pretraining.py:

| | rows | tokens of a row | predicted | steps | learning rate | warm-up |
|---|---|---|---|---|---|---|
| phase 1 | 65,536 | 128 | 20 | 7,038 | 6e-3 | 28.43 % |
| phase 2 | 32,768 | 512 | 80 | 1,563 | 4e-3 | 12.8 % |

Each phase falls with the root of what is left of its steps; weight decay 0.01, clipped at 1, bias-corrected, norms and
biases neither decayed nor adapted. The second phase keeps the running means of the first, as there. There they report a
final loss of 1.2437 (README), and F1 90.68 +- 0.16 on SQuAD 1.1.

A batch is computed in micro-batches (`--phase-1.accumulate`), the result is that of the whole batch: so it runs on any
number of devices. The defaults make micro-batches of 512 and 64 rows, which eight devices share as 64 and 8 each; more
devices want fewer of them, `--phase-1.accumulate 16 --phase-2.accumulate 64` for 64.

Where it differs: NVIDIA counts steps of the schedule from 1, starts the count of the bias correction anew in phase 2,
trains in float16 with loss scaling (here bfloat16 operands and float32 sums), pads the vocabulary to a multiple of 8,
and masks statically five times over (here anew at every visit). Nothing of this size has been measured here.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.phases import PHASE_1, TwoPhases, main
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.training.lamb import lamb


def config() -> TwoPhases:
    return TwoPhases(
        Experiment(
            task=Pretraining(Path("runs/corpus128")),
            learner=Multitask(bert("large"), {"mlm": Mlm(max_predictions=20), "nsp": Nsp()}),
            optimizer=lamb("nvidia", learning_rate=6e-3, warmup=0.2843),
            batch_size=65_536,
            accumulate=128,
            steps=7038,
            log_every=10,
            eval_every=200,
            checkpoint_every=200,
        ),
        Experiment(
            task=Pretraining(Path("runs/corpus512")),
            learner=Multitask(None, {"mlm": Mlm(max_predictions=80), "nsp": Nsp()}),
            optimizer=lamb("nvidia", learning_rate=4e-3, warmup=0.128),
            init_from=Path(PHASE_1),
            init_optimizer=True,
            batch_size=32_768,
            accumulate=512,
            steps=1563,
            log_every=10,
            eval_every=200,
            checkpoint_every=200,
        ),
    )


if __name__ == "__main__":
    main(config)

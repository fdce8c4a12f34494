"""Pre-trains a BERT-base as the paper does: nine steps of ten on rows of 128 tokens, the last one on rows of 512.

    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer VOCAB --output runs/corpus128 --dupe-factor 10
    python tools/prepare_corpus.py TEXT... --valid HELD_OUT --tokenizer VOCAB --output runs/corpus512 --dupe-factor 10 \
        --max-seq-length 512
    python experiments/pretrain_two_phases.py --workdir runs/base \
        --phase-1.corpus runs/corpus128 --phase-2.corpus runs/corpus512

Devlin et al. 2018, appendix A.2: a million steps of 256 rows; google-research/bert, README, "Pre-training tips and
caveats". The flags of each phase are those of `experiments/pretrain.py`, behind `--phase-1.` and `--phase-2.`; the
workdir gets `phase-1`, `phase-2`, and the curves of both. The same command continues an interrupted run in either.

Here the second phase keeps the optimizer's running means and goes on in one learning rate schedule, as the paper has
one training. A run of the original that starts from a checkpoint has a new optimizer (optimization.py:56-58) and a
schedule of its own: `--phase-2.no-init-optimizer --no-joint-schedule`, with a warm-up that fits its steps
(`--phase-2.optimizer.warmup`). The position table has 512 rows from the start, of which phase 1 trains 128; to start
phase 2 from a model with fewer, `--phase-2.extend-positions copied`.

Nothing of this size has been measured here; the small run is in
`experiments/records/2026-11-22-two-phases`.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.phases import PHASE_1, TwoPhases, main
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.training.optim import BertAdam


def config() -> TwoPhases:
    optimizer = BertAdam(learning_rate=1e-4, warmup=10_000)
    return TwoPhases(
        Experiment(
            task=Pretraining(Path("runs/corpus128")),
            learner=Multitask(bert("base"), {"mlm": Mlm(max_predictions=20), "nsp": Nsp()}),
            optimizer=optimizer,
            batch_size=256,
            steps=900_000,
            eval_every=10_000,
            checkpoint_every=1000,
        ),
        Experiment(
            task=Pretraining(Path("runs/corpus512")),
            learner=Multitask(None, {"mlm": Mlm(max_predictions=77), "nsp": Nsp()}),
            optimizer=optimizer,
            init_from=Path(PHASE_1),
            init_optimizer=True,
            batch_size=256,
            steps=100_000,
            eval_every=10_000,
            checkpoint_every=1000,
        ),
        joint_schedule=True,
    )


if __name__ == "__main__":
    main(config)

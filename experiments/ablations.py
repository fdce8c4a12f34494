"""The paper's ablations at a size that a few CPU cores can train (Devlin et al. 2018, tables 5, 6 and 8).

    python experiments/ablations.py --workdir runs/ablations --corpus runs/corpus64 --glue GLUE

Pre-trains every variant once with the same seed, data and number of steps, fine-tunes each on every task with several
seeds, and writes `table.md`, `table.csv` and `table.png`: beside the paper's numbers, and with what becomes of its
claims. Only their direction can be compared, since the values of a model this small are not those of BERT-base.

- base: masked words (80 % [MASK], 10 % random, 10 % kept) and next sentences, 2 layers of width 128;
- no_nsp: without next sentences (table 5); ltr_no_nsp: left to right, in fine-tuning, too (table 5);
- mask_100_0_0, mask_80_0_20: what is shown of a masked word (table 8, in shares of [MASK], kept, random);
- layers_1, layers_4: other depths (table 6).

An interrupted command continues when it is given again. Variants are independent of each other, so that processes can
share them:

    JAX_NUM_CPU_DEVICES=1 taskset -c 1 python experiments/ablations.py ... --variants base no_nsp &

The corpus wants short rows (`tools/prepare_corpus.py --max-seq-length 64`); the settings are those of
`experiments/pretrain_mini.py`, which says why, at the width of `experiments/quickstart.py`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from bert_jax.experiment import Experiment, one_line_errors
from bert_jax.learners.multitask import Multitask
from bert_jax.matrix import Claim, Matrix, Task, run_matrix
from bert_jax.models.bert import bert
from bert_jax.nn.dot import ComputeDtype
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.tasks.glue import GLUE, Name, glue
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.tasks.published import published
from bert_jax.training.optim import BertAdam

ROW = 64  # tokens of the corpus's rows, and so the last position that has learned anything
INIT_STDDEV = 0.06  # 0.02 is for a width of 768; at 128 all attention would start even

# The paper's model that a variant stands for, by task; its masking was tried on other tasks than these.
PAPER = {
    "base": "BERT base",
    "no_nsp": "BERT base, no NSP",
    "ltr_no_nsp": "BERT base, left to right, no NSP",
}
CLAIMS = (
    Claim("base", ">", "no_nsp", "table 5"),
    Claim("no_nsp", ">", "ltr_no_nsp", "table 5"),
    # "Fine-tuning is surprisingly robust to different masking strategies": within 0.1 on MNLI.
    Claim("base", "=", "mask_100_0_0", "table 8"),
    Claim("base", "=", "mask_80_0_20", "table 8"),
    Claim("base", ">", "layers_1", "table 6"),
    Claim("layers_4", ">", "base", "table 6"),
)


@dataclass(frozen=True)
class Arguments:
    """Which variants and tasks, and how much of each."""

    workdir: Path  # folder of all runs and of the table; the same command continues in it
    corpus: Path  # that tools/prepare_corpus.py wrote, rows of 64
    glue: Path  # folder with the folders of the tasks, SST-2 and so on
    tasks: tuple[Literal["CoLA", "SST-2", "MRPC", "QQP", "MNLI", "QNLI", "RTE", "WNLI"], ...] = ("SST-2", "MRPC", "RTE")
    steps: int = 2500  # updates of each pre-training, 64 rows each
    learning_rate: float = 2e-3  # of pre-training
    dtype: ComputeDtype = "bfloat16"  # of the dots
    fine_tuning_epochs: float = 3.0  # passes over the training examples of each task
    fine_tuning_learning_rate: float = 3e-4
    train_on_dev: bool = False  # four fifths of dev.tsv, of a task that has no train.tsv; the rest is held out
    train_limit: int = 6000  # training examples of a task that has more
    seeds: int = 3  # of each fine-tuning
    variants: tuple[str, ...] = ()  # of these only, for processes side by side; the table has all that are finished


def variants(arguments: Arguments) -> dict[str, Experiment]:
    """The pre-trainings by name."""

    def pretraining(layers: int = 2, nsp: bool = True, causal: bool = False, **masking) -> Experiment:
        words = CausalLm(init_stddev=INIT_STDDEV) if causal else Mlm(rate=0.3, init_stddev=INIT_STDDEV, **masking)
        objectives = {"lm" if causal else "mlm": words} | ({"nsp": Nsp(init_stddev=INIT_STDDEV)} if nsp else {})
        encoder = bert(
            "tiny", num_layers=layers, causal=causal, dropout=0.0, attention_dropout=0.0, init_stddev=INIT_STDDEV,
            max_length=ROW, dtype=arguments.dtype,
        )  # fmt: skip
        return Experiment(
            task=Pretraining(arguments.corpus, valid_limit=2000),
            learner=Multitask(encoder, objectives),
            optimizer=BertAdam(arguments.learning_rate, warmup=0.1, b2=0.98, bias_correction=True),
            batch_size=64,
            steps=arguments.steps,
            keep=1,
            log_every=200,
            eval_every=1000,
            checkpoint_every=1000,
        )

    return {
        "base": pretraining(),
        "no_nsp": pretraining(nsp=False),
        "ltr_no_nsp": pretraining(nsp=False, causal=True),
        "mask_100_0_0": pretraining(mask_share=1.0, random_share=0.0),
        "mask_80_0_20": pretraining(mask_share=0.8, random_share=0.2),
        "layers_1": pretraining(layers=1),
        "layers_4": pretraining(layers=4),
    }


def tasks(arguments: Arguments) -> dict[str, Task]:
    """The fine-tunings by name, and what the paper reports of them. Small models want larger rates than the paper's
    (Turc et al. 2019 search up to 3e-4), and few examples bias correction."""

    def task(name: Name) -> Task:
        data = glue(name, str(arguments.glue), max_length=ROW if len(GLUE[name].texts) == 2 else 48)
        metric = "matthews" if name == "CoLA" else "accuracy"  # as in table 5, also of MRPC
        if arguments.train_on_dev and not Path(data.data.train).exists():
            data = replace(data, data=replace(data.data, train=data.data.valid[0], valid=(), valid_share=0.2))
        limit = min(arguments.train_limit, len(data.data.all_train_rows))
        data = replace(data, data=replace(data.data, train_limit=limit))

        def fine_tuning(init_from: Path) -> Experiment:
            return Experiment(
                task=data,
                learner=Multitask(None, {"classify": Classify(init_stddev=INIT_STDDEV)}),
                optimizer=BertAdam(arguments.fine_tuning_learning_rate, warmup=0.1, bias_correction=True),
                init_from=init_from,
                dropout=0.1,
                batch_size=32,
                epochs=arguments.fine_tuning_epochs,
                best_metric=f"valid/classify/{metric}",
                keep=1,
                log_every=100,
                eval_every=10**6,  # at the end only
                checkpoint_every=10**6,
            )

        table = [entry for entry in published(name, metric) if entry.source == "Devlin et al. 2018, table 5"]
        models = {entry.model: entry.value for entry in table}
        return Task(fine_tuning, {variant: models[model] for variant, model in PAPER.items() if model in models})

    return {name: task(name) for name in arguments.tasks}


def main(arguments: Arguments) -> None:
    """Trains what is not finished and writes the table; bad input ends with one line."""
    with one_line_errors():
        matrix = Matrix(variants(arguments), tasks(arguments), CLAIMS, arguments.seeds)
        run_matrix(matrix, arguments.workdir, arguments.variants)


if __name__ == "__main__":
    main(tyro.cli(Arguments))

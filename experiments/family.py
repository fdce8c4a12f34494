"""The family beside each other: ten members pre-trained from scratch with the same compute, then fine-tuned.

    ROWS="--valid HELD_OUT --tokenizer runs/vocab --max-seq-length 64"
    python tools/prepare_corpus.py TEXT... $ROWS --output runs/family/pairs --dupe-factor 5
    python tools/prepare_corpus.py TEXT... $ROWS --output runs/family/order --dupe-factor 2 --pairs order
    python tools/prepare_corpus.py TEXT... $ROWS --output runs/family/rows --dupe-factor 1 --rows full-sentences \
        --short-seq-prob 0
    python experiments/family.py --workdir runs/family/table --corpora runs/family --glue GLUE --ewt EWT

Two layers of width 128 and one vocabulary for all, whatever the papers have; the recipe is that of
`experiments/ablations.py`. What differs is what makes a member itself:

- bert: masked words and next sentences; roberta: masked words alone, over rows full of sentences;
- spanbert: spans of words, predicted from their boundaries, too; albert: one layer's parameters for both, narrow
  embeddings, n-grams, sentence order; electra: which tokens a generator has replaced;
- mpnet, xlnet: the words of a random order, one after another, in two streams, over relative positions;
- gpt2: the next word, left to right, norms first; fnet: a Fourier transform in place of attention; modernbert: rotary
  positions, gated layers, local attention in two of three layers.

Compute is counted in multiplications (`training.flops.dot_flops`): `--steps` are those of bert, and each other member
gets as many as cost the same (FNet in its form of matrix products). DistilBERT, which wants a teacher
(`experiments/distill.py`), and XLM-R, which is RoBERTa on other text, are not among them. SpanBERT's rows here go on
where a document ends, as RoBERTa's; its own do not. An interrupted command continues when it is given again, and
`--variants` shares the work among processes, as there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import flax.linen as nn
import tyro

from bert_jax.data.conll import TaggedFiles
from bert_jax.data.loader import TrainingBatches
from bert_jax.data.packing import Layout, Padding
from bert_jax.experiment import Experiment, one_line_errors
from bert_jax.learners.electra import GeneratorDiscriminator
from bert_jax.learners.mpnet import MaskedPermuted
from bert_jax.learners.multitask import Multitask
from bert_jax.matrix import Claim, Matrix, Task, run_matrix
from bert_jax.models.albert import Albert
from bert_jax.models.bert import Bert
from bert_jax.models.electra import Electra
from bert_jax.models.fnet import Fnet
from bert_jax.models.gpt2 import Gpt2
from bert_jax.models.modernbert import ModernBert
from bert_jax.models.mpnet import Mpnet
from bert_jax.models.roberta import Roberta
from bert_jax.models.xlnet import Xlnet
from bert_jax.nn.dot import ComputeDtype
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.ngrams import Ngrams
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.plm import Plm
from bert_jax.objectives.rtd import Rtd
from bert_jax.objectives.sbo import Sbo
from bert_jax.objectives.sop import Sop
from bert_jax.objectives.spans import Spans
from bert_jax.objectives.tag import Tag
from bert_jax.resolve import resolve
from bert_jax.tasks.glue import Name, glue
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.tasks.tagging import Tagging
from bert_jax.train import speed_limit
from bert_jax.training.optim import BertAdam

ROW = 64
SAMPLE = 20  # batches whose multiplications are counted
INIT_STDDEV = 0.06  # 0.02 is for a width of 768; at 128 all attention would start even
SMALL = {"num_layers": 2, "width": 128, "num_heads": 2, "mlp_width": 512, "max_length": ROW, "init_stddev": INIT_STDDEV}
# What the head over a text reads, where there is no pooler that was trained with the encoder.
HIDDEN = {"roberta": "tanh", "spanbert": "tanh", "electra": "gelu", "gpt2": "last", "modernbert": "gelu_norm"}
HIDDEN |= {"mpnet": "tanh", "xlnet": "last_tanh"}
# FNet mixes padding in, and rows of two streams are not packed.
PADDING: dict[str, Padding] = {"fnet": "full", "mpnet": "trimmed", "xlnet": "trimmed"}
CLAIMS = (
    Claim("roberta", ">", "bert", "Liu et al. 2019, table 2: without NSP"),
    Claim("spanbert", ">", "roberta", "Joshi et al. 2019, section 5"),
    Claim("electra", ">", "bert", "Clark et al. 2020, figure 1: at equal compute"),
    Claim("bert", ">", "fnet", "Lee-Thorp et al. 2021, table 1"),
)


@dataclass(frozen=True)
class Arguments:
    """Where things are, and how much of each."""

    workdir: Path  # folder of all runs and of the table; the same command continues in it
    corpora: Path  # folder of the corpora pairs, order and rows, rows of 64 in one vocabulary
    glue: Path  # folder with the folders SST-2 and RTE
    ewt: Path  # folder of the English Web Treebank's en_ewt-ud-train.conllu and -dev, compressed or not
    steps: int = 2500  # of bert, 64 rows each; the others have as many as cost the same
    learning_rate: float = 2e-3  # of pre-training
    dtype: ComputeDtype = "bfloat16"  # of the dots
    fine_tuning_epochs: float = 3.0
    fine_tuning_learning_rate: float = 3e-4
    train_limit: int = 6000  # training examples of a task that has more
    seeds: int = 3  # of each fine-tuning
    variants: tuple[str, ...] = ()  # of these only, for processes side by side; the table has all that are finished


def learners(arguments: Arguments) -> dict[str, tuple[str, nn.Module]]:
    """The name of the corpus and the learner of each member."""
    own = SMALL | {"dtype": arguments.dtype, "dropout": 0.0, "attention_dropout": 0.0}

    def mlm(**fields: Any) -> Mlm:
        return Mlm(rate=0.3, init_stddev=INIT_STDDEV, **fields)

    spans = {"mlm": mlm(masking=Spans(), activation="gelu"), "sbo": Sbo(init_stddev=INIT_STDDEV)}
    return {
        "bert": ("pairs", Multitask(Bert(**own), {"mlm": mlm(), "nsp": Nsp(init_stddev=INIT_STDDEV)})),
        "roberta": ("rows", Multitask(Roberta(**own), {"mlm": mlm(activation="gelu", norm_epsilon=1e-5)})),
        "spanbert": ("rows", Multitask(Bert(**own, activation="gelu", pooler=False), spans)),
        "albert": (
            "order",
            Multitask(
                Albert(**own, embedding_width=64),
                {"mlm": mlm(masking=Ngrams()), "sop": Sop(init_stddev=INIT_STDDEV)},
            ),
        ),
        "electra": (
            "pairs",
            GeneratorDiscriminator(
                Electra(**own, embedding_width=64),
                {
                    "mlm": mlm(mask_share=1.0, random_share=0.0, activation="gelu"),
                    "rtd": Rtd(init_stddev=INIT_STDDEV),
                },
                generator_size=0.5,
            ),
        ),
        "mpnet": ("rows", MaskedPermuted(Mpnet(**own), {"mlm": mlm(activation="gelu", norm_epsilon=1e-5)})),
        "xlnet": ("rows", Multitask(Xlnet(**own), {"plm": Plm(20, rate=0.3, init_stddev=INIT_STDDEV)})),
        "gpt2": ("rows", Multitask(Gpt2(**own), {"lm": CausalLm(transform=False)})),
        "fnet": (
            "pairs",
            Multitask(Fnet(**own, fourier="matmul"), {"mlm": mlm(), "nsp": Nsp(init_stddev=INIT_STDDEV)}),
        ),
        "modernbert": (
            "rows",
            Multitask(
                ModernBert(**own, window=8),
                {"mlm": mlm(activation="gelu", norm_epsilon=1e-5, use_bias=False)},
            ),
        ),
    }


def variants(arguments: Arguments) -> dict[str, Experiment]:
    """The pre-trainings by name, of equal compute."""

    def pretraining(name: str, corpus: str, learner: nn.Module) -> Experiment:
        return Experiment(
            task=Pretraining(arguments.corpora / corpus, valid_limit=2000),
            learner=learner,
            optimizer=BertAdam(arguments.learning_rate, warmup=0.1, b2=0.98, bias_correction=True),
            padding=PADDING.get(name, "packed"),
            batch_size=64,
            steps=arguments.steps,
            keep=1,
            log_every=200,
            eval_every=1000,
            checkpoint_every=1000,
        )

    found = {name: pretraining(name, *parts) for name, parts in learners(arguments).items()}
    costs = {name: step_flops(experiment) for name, experiment in found.items()}
    return {
        name: replace(experiment, steps=round(arguments.steps * costs["bert"] / costs[name]))
        for name, experiment in found.items()
    }


def step_flops(experiment: Experiment) -> float:
    """Of a step, on average over the first `SAMPLE` batches as they are laid out for one device."""
    run = resolve(experiment)
    flops, _ = speed_limit(run)
    layout = Layout.of(run.train_source, experiment.padding)
    batches = TrainingBatches(run.train_source, experiment.batch_size, experiment.seed)
    return fmean(flops(batch) for i in range(SAMPLE) for batch in layout([batches[i]]))


def tasks(arguments: Arguments) -> dict[str, Task]:
    """The fine-tunings by name."""

    def fine_tuning(task: Any, head: Mapping[str, nn.Module], init_from: Path, metric: str) -> Experiment:
        return Experiment(
            task=task,
            learner=Multitask(None, head),
            optimizer=BertAdam(arguments.fine_tuning_learning_rate, warmup=0.1, bias_correction=True),
            init_from=init_from,
            dropout=0.1,
            padding=PADDING["fnet"] if init_from.name == "fnet" else "packed",
            batch_size=32,
            epochs=arguments.fine_tuning_epochs,
            best_metric=f"valid/{metric}",
            keep=1,
            log_every=100,
            eval_every=10**6,  # at the end only
            checkpoint_every=10**6,
        )

    def text(name: Name) -> Task:
        data = glue(name, str(arguments.glue), max_length=ROW)
        limit = min(arguments.train_limit, len(data.data.all_train_rows))
        data = replace(data, data=replace(data.data, train_limit=limit))

        def of(init_from: Path) -> Experiment:
            head = Classify(init_stddev=INIT_STDDEV, hidden=HIDDEN.get(init_from.name, "none"))
            return fine_tuning(data, {"classify": head}, init_from, "classify/accuracy")

        return Task(of)

    files = {part: str(treebank(arguments.ewt, part)) for part in ("train", "dev")}
    data = TaggedFiles(files["train"], (files["dev"],), scheme="plain", train_limit=arguments.train_limit)
    tagging = Tagging(data, max_length=ROW, name="EWT")
    ewt = Task(lambda init_from: fine_tuning(tagging, {"tag": Tag()}, init_from, "tag/accuracy"))
    return {"SST-2": text("SST-2"), "RTE": text("RTE"), "EWT": ewt}


def treebank(folder: Path, part: str) -> Path:
    """The file of a part. Raises FileNotFoundError where there is none."""
    files = sorted(folder.glob(f"en_ewt-ud-{part}.conllu*"))
    if not files:
        raise FileNotFoundError(f"{folder} has no en_ewt-ud-{part}.conllu: give the folder of the treebank with --ewt")
    return files[0]


def main(arguments: Arguments) -> None:
    """Trains what is not finished and writes the table; bad input ends with one line."""
    with one_line_errors():
        matrix = Matrix(variants(arguments), tasks(arguments), CLAIMS, arguments.seeds)
        run_matrix(matrix, arguments.workdir, arguments.variants)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))

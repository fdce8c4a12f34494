"""Repeats a fine-tuning with transformers: python tools/finetune_with_transformers.py WORKDIR --output FOLDER

For tables that put the two side by side. It starts from the checkpoint that the run in WORKDIR started from, reads the
same encoded examples, and takes the run's batch size, number of steps, learning rate, warm-up, decay, clipping and
dropout. All else is theirs: the model, its new head, torch.optim.AdamW, the order of the batches. The folder it writes
is laid out as a run's, and the metrics in it are computed by the code that computed the run's. PyTorch and transformers
are the extra bert_jax[parity].

    python experiments/sst2.py --workdir runs/sst2 --init-from MODEL --data.train train.tsv --data.valid dev.tsv
    python tools/finetune_with_transformers.py runs/sst2 --output runs/sst2-transformers --seeds 3
"""

import contextlib
import itertools
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

try:
    import torch
    import transformers
except ImportError as error:
    raise SystemExit(f"{Path(__file__).stem}: {error}. PyTorch and transformers: pip install -e '.[parity]'") from None

from bert_jax.evaluate import evaluate_all
from bert_jax.experiment import encode, write_json
from bert_jax.interop import tensors
from bert_jax.members import RESULT_FILE, write_result, write_seeds
from bert_jax.models.bert import Bert
from bert_jax.models.encoded import Encoded
from bert_jax.nn.losses import Mean
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.pretrained import load, load_experiment, locate
from bert_jax.resolve import Resolved, resolve
from bert_jax.training.log import Logger
from bert_jax.training.meter import Meter
from bert_jax.training.optim import AdamW, warmup_steps

CLASSES = {
    Classify: transformers.AutoModelForSequenceClassification,
    Regress: transformers.AutoModelForSequenceClassification,
    MultiLabel: transformers.AutoModelForSequenceClassification,
    Tag: transformers.AutoModelForTokenClassification,
    Span: transformers.AutoModelForQuestionAnswering,
    Choice: transformers.AutoModelForMultipleChoice,
}
PROBLEMS = {
    Classify: "single_label_classification",
    Regress: "regression",
    MultiLabel: "multi_label_classification",
}
IGNORED = -100  # their mark for a token that is not predicted


@dataclass(frozen=True)
class Arguments:
    """Fine-tunes with PyTorch and transformers what a run has fine-tuned here."""

    workdir: tyro.conf.Positional[Path]  # of the run
    output: Path  # folder to make, as of a run; the same command goes on after the seeds that are finished
    seeds: int = 3  # runs, with the seed of the run in `workdir`, the next one, ...
    dtype: Literal["float32", "bfloat16"] = "float32"  # bfloat16: by autocast
    threads: int = 0  # of PyTorch on a CPU; 0 leaves the number to it


def fine_tune_all(arguments: Arguments, console: Console) -> None:
    """Fine-tunes once for each seed.

    Raises ValueError for an objective that transformers has no class for, and for an output of something else; and
    whatever `load_experiment` and `resolve` raise.
    """
    run = resolve(replace(load_experiment(arguments.workdir), seeds=1))
    head_of(run)  # known, or an error
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    record = json.loads((arguments.workdir / "config.json").read_text())
    record["optimizer"] = encode(optimizer_of(run))
    record["learner"]["encoder"]["dtype"] = arguments.dtype
    record["peer"] = f"transformers {transformers.__version__}, torch {torch.__version__}"
    claim(arguments.output, record | {"seeds": arguments.seeds})
    seeds, results = list(range(record["seed"], record["seed"] + arguments.seeds)), []
    for seed in seeds:
        folder = arguments.output if arguments.seeds == 1 else arguments.output / f"seed-{seed}"
        if not (folder / RESULT_FILE).exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was interrupted
            claim(folder, record | {"seed": seed, "seeds": 1})
            console.print(f"seed {seed}: {run.steps:,} steps of {run.experiment.batch_size}, in {folder}")
            fine_tune(run, seed, folder, arguments.dtype)
        results.append(json.loads((folder / RESULT_FILE).read_text()))
    if arguments.seeds > 1:
        console.print(write_seeds(arguments.output, results))


def claim(folder: Path, record: Mapping[str, Any]) -> None:
    """Makes a folder with this `config.json`, or finds that it has it. Raises ValueError where it has not."""
    path = folder / "config.json"
    if folder.exists() and not (path.exists() and json.loads(path.read_text()) == record):
        raise ValueError(f"{folder} exists and holds something else: choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def head_of(run: Resolved) -> tuple[str, nn.Module]:
    """Name and objective of a run. Raises ValueError where transformers has no class for it, or no such training."""
    (name, *others), optimizer = run.learner.objectives, run.experiment.optimizer
    head = run.learner.objectives[name]
    if others or type(head) not in CLASSES:
        known = ", ".join(kind.__name__ for kind in CLASSES)
        raise ValueError(f"the run has the objectives {', '.join((name, *others))}; needed is one of {known}")
    special = {
        "a causal encoder": run.learner.encoder.causal,
        "an encoder that is not trained": not run.learner.trains_encoder,
        "layer_decay": optimizer.layer_decay != 1,
        "frozen_layers": optimizer.frozen_layers is not None,
        "reinitialised_layers": run.experiment.reinitialised_layers > 0,
    }
    if found := [what for what, there in special.items() if there]:
        raise ValueError(f"the run has {', '.join(found)}, which this tool has no counterpart of")
    return name, head


def optimizer_of(run: Resolved) -> AdamW:
    """Theirs, in our words: the numbers of the run in standard AdamW, which spares biases and norms from the decay."""
    fields = ("learning_rate", "warmup", "b1", "b2", "weight_decay", "clip_norm")
    return AdamW(**{field: getattr(run.experiment.optimizer, field) for field in fields}, decay_all=False)


def fine_tune(run: Resolved, seed: int, folder: Path, dtype: str) -> None:
    """One run: metrics, predictions and result are written to `folder`, as those of a run."""
    experiment, total, began = run.experiment, run.steps, time.monotonic()
    name, head = head_of(run)
    torch.manual_seed(seed)  # new head and dropout
    with start_folder(run) as start:
        model = opened(start, head, run.learner.encoder, experiment.random_weights)
    optimizer = optimizer_of(run)
    numbers = itertools.islice(order(len(run.train_source), experiment.batch_size, seed), total)
    steps = train_steps(model, head, map(run.train_source.read, numbers), total, optimizer, dtype)
    evaluate = evaluate_step(model, name, head, dtype)
    limit = experiment.max_skipped_in_a_row  # here no update is skipped, but a run that diverged is known by as many
    meter, fault = Meter(run.together, optimizer.schedule(total), experiment.batch_size, 1.0, limit), None
    found: dict[str, float] = {}
    with Logger(folder, total) as log:
        for step, (loss, norm, tokens) in enumerate(steps, 1):
            of_head = {f"{name}/loss": Mean(loss, 1.0)}
            scalars = {"loss": loss, "gradient_norm": norm, "tokens": tokens}
            meter.add((of_head, scalars | {"skipped": not np.isfinite([loss, norm]).all()}), flops=0.0)
            if step == total or step % experiment.log_every == 0:
                (reading,) = meter.read(step)
                log.log(step, {f"train/{key}": value for key, value in reading.values.items() if key != "mfu"})
                fault = fault or (reading.fault and str(reading.fault))
            if step == total or step % experiment.eval_every == 0:
                meter.pause()
                (found,) = evaluate_all(run, evaluate, None, [seed], [folder])
                log.log(step, found)
                meter.restart()
    baselines = {source: experiment.task.baselines(run.train_source, data) for source, data in run.evaluations.items()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    write_result(run, folder, seed, found, baselines, fault, parameters, time.monotonic() - began)


# ---- model and data ----


def opened(folder: Path, head: nn.Module, encoder: Bert, random_weights: bool = False) -> torch.nn.Module:
    """Their class for an objective, with the weights in a folder, our dropout, and the folder's head or a new one."""
    settings = {
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "classifier_dropout": getattr(head, "dropout", None),
        "num_labels": 1 if isinstance(head, Regress) else getattr(head, "num_classes", 2),
        "problem_type": PROBLEMS.get(type(head)),
    }
    kind = CLASSES[type(head)]
    if random_weights:
        model = kind.from_config(transformers.AutoConfig.from_pretrained(folder, **settings))
    else:
        model = kind.from_pretrained(folder, dtype=torch.float32, **settings)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def start_folder(run: Resolved) -> Iterator[Path]:
    """What the run started from as transformers opens it: the folder itself, or a temporary one."""
    folder, layout = locate(run.experiment.init_from)
    start = load(folder, run.experiment.init_checkpoint)
    kept = [name for name in start.model.objectives if name in run.learner.objectives]
    # Several classes of theirs call their head `classifier`: that of another task must not be taken for this one's.
    foreign = any(type(head) in CLASSES for name, head in start.model.objectives.items() if name not in kept)
    readable = any((folder / file).exists() for file in (tensors.SAFETENSORS, tensors.INDEX))
    if layout == "hf" and readable and not foreign:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        start.save(Path(temporary) / "start", heads=kept)
        yield Path(temporary) / "start"


def order(examples: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """The numbers of the examples of each batch: epochs without a seam, each shuffled by PyTorch's generator."""
    generator = torch.Generator().manual_seed(seed)
    epochs = (torch.randperm(examples, generator=generator).tolist() for _ in itertools.count())
    numbers = itertools.chain.from_iterable(epochs)
    while True:
        yield np.fromiter(itertools.islice(numbers, batch_size), np.int64, batch_size)


def inputs(head: nn.Module, batch: Mapping[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
    """The first `width` columns of a batch as the arguments of their model."""
    found = {
        "input_ids": batch["tokens"][:, :width],
        "token_type_ids": batch["segments"][:, :width],
        "attention_mask": np.arange(width) < batch["lengths"][:, None],
    }
    if isinstance(head, Choice):
        found = {name: array.reshape(-1, head.num_choices, width) for name, array in found.items()}
    return found


def labels(head: nn.Module, batch: Mapping[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
    """What is to be predicted, likewise."""
    match head:
        case Tag():
            tags = batch["tags"][:, :width]
            return {"labels": np.where(tags < 0, IGNORED, tags)}
        case Span():
            return {"start_positions": batch["span"][:, 0], "end_positions": batch["span"][:, 1]}
        case Choice():
            return {"labels": batch["label"][:: head.num_choices]}
        case Regress():
            return {"labels": batch["target"]}
        case MultiLabel():
            return {"labels": batch["targets"].astype(np.float32)}
        case _:
            return {"labels": batch["label"]}


# ---- the steps ----


def train_steps(
    model: torch.nn.Module, head: nn.Module, batches: Iterable[Mapping], total: int, optimizer: AdamW, dtype: str
) -> Iterator[tuple[float, float, int]]:
    """Trains on the batches; of each step the loss, the norm of the gradient before it is clipped, and the tokens."""
    named = list(model.named_parameters())
    spared = [parameter for name, parameter in named if "LayerNorm" in name or name.endswith("bias")]
    others = [parameter for name, parameter in named if not ("LayerNorm" in name or name.endswith("bias"))]
    groups = [{"params": others, "weight_decay": optimizer.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    betas = (optimizer.b1, optimizer.b2)
    adam = torch.optim.AdamW(groups, lr=optimizer.learning_rate, betas=betas, eps=optimizer.eps)
    warmup = warmup_steps(optimizer.warmup, total)
    schedule = transformers.get_linear_schedule_with_warmup(adam, warmup, total)
    for batch in batches:
        # As their collators do, unless a span is chosen among the padding, too.
        width = batch["tokens"].shape[1] if getattr(head, "over_padding", False) else int(batch["lengths"].max())
        model.train()
        found = compute(model, inputs(head, batch, width) | labels(head, batch, width), dtype)
        if isinstance(head, Span) and not head.over_padding:
            loss = span_loss(found, batch)
        else:
            loss = masked_loss(found.logits, batch) if "choice_mask" in batch else found.loss
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer.clip_norm or math.inf)
        adam.step()
        schedule.step()
        yield loss.item(), norm.item(), int(batch["lengths"].sum())


def masked_loss(logits: torch.Tensor, batch: Mapping[str, np.ndarray]) -> torch.Tensor:
    """The loss of questions [Q, C] some of which have fewer choices than others, which their class knows nothing of."""
    mask = torch.as_tensor(batch["choice_mask"], device=logits.device).reshape(logits.shape)
    wanted = torch.as_tensor(batch["label"][:: logits.shape[1]].astype(np.int64), device=logits.device)
    return torch.nn.functional.cross_entropy(logits.float().masked_fill(~mask, -math.inf), wanted)


def span_loss(found: Any, batch: Mapping[str, np.ndarray]) -> torch.Tensor:
    """The loss of spans among the tokens of each row, where their class counts padding as places, too."""
    logits = torch.stack([found.start_logits, found.end_logits], 1).float()
    real = torch.arange(logits.shape[2]) < torch.as_tensor(batch["lengths"].astype(np.int64))[:, None, None]
    wanted = torch.as_tensor(batch["span"].astype(np.int64), device=logits.device)
    masked = logits.masked_fill(~real.to(logits.device), -math.inf)
    return torch.nn.functional.cross_entropy(masked.flatten(0, 1), wanted.flatten())


def compute(model: torch.nn.Module, arguments: Mapping[str, np.ndarray], dtype: str) -> Any:
    """What their model returns; integers and truth values become int64."""
    device = model.device
    arrays = {
        name: torch.as_tensor(array if array.dtype.kind == "f" else array.astype(np.int64), device=device)
        for name, array in arguments.items()
    }
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        return model(**arrays)


def evaluate_step(model: torch.nn.Module, name: str, head: nn.Module, dtype: str) -> Callable:
    """What `training.step.make_evaluate_step` makes, of their model: `(params, seed, batch) -> metrics, predictions`.

    Both are computed by our objective: their logits go through a projection that changes nothing.
    """

    @jax.jit
    def ours(logits, batch):
        size = logits.shape[-1]
        identity = {"output": {"kernel": jnp.eye(size), "bias": jnp.zeros(size)}}
        tokens, text = (logits, logits[:, 0]) if logits.ndim == 3 else (logits[:, None], logits)
        encoded = Encoded(tokens, text, logits, {})
        metrics = head.apply({"params": identity}, encoded, batch, False)
        predictions = head.apply({"params": identity}, encoded, batch, method="predict")
        return tuple({f"{name}/{key}": value for key, value in of.items()} for of in (metrics, predictions))

    def step(params, seed, batch):
        model.eval()
        arrays = jax.device_get(batch)
        with torch.no_grad():
            found = compute(model, inputs(head, arrays, arrays["tokens"].shape[1]), dtype)
        if isinstance(head, Span):
            logits = torch.stack([found.start_logits, found.end_logits], -1)
        else:
            logits = found.logits.reshape(-1, 1) if isinstance(head, Choice) else found.logits
        return ours(logits.float().cpu().numpy(), batch)

    return step


def main() -> int:
    """Runs the command line; exit code 2 means that the input was wrong, and says what to do."""
    try:
        fine_tune_all(tyro.cli(Arguments), Console(highlight=False, markup=False, soft_wrap=True))
    except (ValueError, OSError) as error:
        print(f"finetune_with_transformers: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

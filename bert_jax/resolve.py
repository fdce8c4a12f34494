"""From an experiment to everything it stands for, checked: what can be wrong is found here, before compilation."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.data.loader import Source, TrainingBatches
from bert_jax.data.packing import Padding
from bert_jax.experiment import Experiment
from bert_jax.handover import extend_positions, saved_moments
from bert_jax.pretrained import Pretrained, load, load_architecture
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.training.accumulation import check_accumulate
from bert_jax.training.sharding import Together, check_batch_size
from bert_jax.training.step import abstract_parameters


@dataclass(frozen=True)
class Resolved:
    """An experiment with its data opened.

    Attributes:
        experiment: as given, with the encoder filled in.
        learner: with the vocabulary's size and the number of classes filled in.
        tokenizer: of the data.
        train_source: training examples.
        evaluations: held-out examples by name.
        mesh: over all devices.
        together: the runs that are trained at once, on that mesh.
        steps: updates of the whole run.
        initial: parameters to start from, by top-level name; empty for random weights.
        moments: of the optimizer to take over (`handover.saved_moments`); empty for a new one.
        example_batch: the first rows of the training data, for shapes.
        abstract: shapes of the parameters, boxed with their axis letters.
    """

    experiment: Experiment
    learner: nn.Module
    tokenizer: Tokenizer
    train_source: Source
    evaluations: dict[str, Source]
    mesh: Mesh
    together: Together
    steps: int
    initial: dict[str, Any]
    moments: dict[str, Any]
    example_batch: dict[str, np.ndarray]
    abstract: Any


def resolve(experiment: Experiment, to_come: Pretrained | None = None) -> Resolved:
    """Opens and checks what an experiment names.

    Args:
        to_come: stands for `init_from`, which is not there yet: shapes, and values that nobody looks at.

    Raises ValueError or FileNotFoundError for what does not fit: files, vocabulary, lengths, classes, batch and
    devices, the shapes of the parameters to start from.
    """
    together = _division(experiment)
    start = _start(experiment) if to_come is None else to_come
    tokenizer = _tokenizer(experiment, start)
    task, learner = experiment.task, experiment.learner
    if start is not None and hasattr(learner, "starting_from"):
        learner, params = learner.starting_from(start.model, start.params)
        start = dataclasses.replace(start, params=params)
    if learner.encoder is None:
        learner = learner.clone(encoder=_encoder(experiment, start))
    if experiment.accumulate > 1 and getattr(learner.encoder, "dropout_bits", "hash") != "hash":
        raise ValueError(
            "accumulate needs dropout_bits 'hash': JAX's generator does not know which row of the batch it draws for, "
            "and would drop the same of every micro-batch"
        )
    experiment = dataclasses.replace(experiment, learner=learner, dropout=None, dtype=None)
    special_ids = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    # A foreign checkpoint can have a longer table than its vocabulary, padded for speed; it keeps it.
    rows = max(tokenizer.vocab_size, start.model.encoder.vocab_size if start else 0)
    learner = task.prepare(learner.for_vocabulary(rows, special_ids))
    source, evaluations = task.train(tokenizer), task.evaluations(tokenizer)
    if experiment.extend_positions:
        longest = max(data.max_length for data in (source, *evaluations.values()))
        start, learner = _with_positions(start, learner, longest, experiment)
    _check_rows({"train": source} | evaluations, learner.encoder, experiment.padding)
    steps = experiment.total_steps(len(source))
    experiment.optimizer.schedule(steps)  # raises where the warm-up does not fit
    batch = TrainingBatches(source, experiment.batch_size, experiment.seed)[0]
    abstract = abstract_parameters(learner, batch)  # once, for all who need it: a trace takes a while
    _check_best_metric(experiment.best_metric, task.metric_names, learner, evaluations, batch, abstract)
    check_heads(learner, start)
    initial = _initial(start, abstract)
    moments = {}
    if experiment.init_optimizer and to_come is None:
        moments = saved_moments(experiment.init_from, experiment.init_checkpoint)
    _check_layers(experiment, learner)
    return Resolved(
        experiment,
        learner,
        tokenizer,
        source,
        evaluations,
        together.mesh,
        together,
        steps,
        initial,
        moments,
        batch,
        abstract,
    )


def _division(experiment: Experiment) -> Together:
    """How batches and runs are divided among devices. Raises ValueError where they cannot be."""
    if experiment.seeds > 1 and jax.process_count() > 1:
        raise ValueError(
            f"{experiment.seeds} seeds at once are for one process, and here are {jax.process_count()}: start one run "
            "per process instead, each with its own --seed and --workdir"
        )
    together = Together(experiment.mesh.build(), experiment.seeds)
    check_batch_size(experiment.batch_size, together)
    check_accumulate(experiment.batch_size, experiment.accumulate, together)
    check_batch_size(experiment.eval_batch_size, together)
    return together


def _start(experiment: Experiment) -> Pretrained | None:
    if experiment.init_from is None:
        return None
    if experiment.random_weights:
        return load_architecture(experiment.init_from)
    return load(experiment.init_from, experiment.init_checkpoint)


def _encoder(experiment: Experiment, start: Pretrained) -> nn.Module:
    """That of the checkpoint, with the experiment's dropout and dtype."""
    encoder = start.model.encoder
    if experiment.dropout is not None:
        rates = [name for name in ("dropout", "attention_dropout") if hasattr(encoder, name)]
        encoder = encoder.clone(**dict.fromkeys(rates, experiment.dropout))
    return encoder if experiment.dtype is None else encoder.clone(dtype=experiment.dtype)


def _check_rows(sources: dict[str, Source], encoder: nn.Module, padding: Padding) -> None:
    for name, data in sources.items():
        if data.max_length > encoder.max_length:
            raise ValueError(
                f"the {name} data has rows of {data.max_length} tokens, but the encoder takes {encoder.max_length} "
                "(max_length)"
            )
        _check_padding(encoder, padding, name, data.max_length)


def _check_layers(experiment: Experiment, learner: nn.Module) -> None:
    frozen = getattr(experiment.optimizer, "frozen_layers", None) or 0
    for name, asked in (("reinitialised_layers", experiment.reinitialised_layers), ("frozen_layers", frozen)):
        layers = getattr(learner.encoder, "layer_sets", learner.encoder.num_layers)
        if asked > layers:
            own = "" if layers == learner.encoder.num_layers else " with parameters of their own"
            raise ValueError(f"{name} {asked}, but the encoder has only {layers} layers{own}")


def _check_padding(encoder: nn.Module, padding: Padding, name: str, length: int) -> None:
    """Raises ValueError for an encoder that computes padding as any token, where not all rows are padded to its length:
    what it makes of a text would depend on the batch, and on the data that the text is in."""
    if getattr(encoder, "ignores_padding", True):
        return
    kind = type(encoder).__name__
    if padding != "full":
        raise ValueError(f'{kind} computes padding as any token, and cannot pack or cut rows: set padding to "full"')
    if length != encoder.max_length:
        raise ValueError(
            f"the {name} data has rows of {length} tokens, but {kind} computes padding as any token, and was made for "
            f"rows of {encoder.max_length} (max_length): both must be one length"
        )


def _with_positions(
    start: Pretrained, learner: nn.Module, longest: int, experiment: Experiment
) -> tuple[Pretrained, nn.Module]:
    """Both with a position table for rows of `longest` at least."""
    if "positions" not in start.params["encoder"]["embeddings"]:
        kind = type(start.model.encoder).__name__
        raise ValueError(f"{kind} has no position table to extend: give its encoder a max_length of {longest}")
    rows = max(longest, learner.encoder.max_length, start.model.encoder.max_length)
    stddev, how = learner.encoder.init_stddev, experiment.extend_positions
    first = len(start.params["encoder"]["embeddings"]["positions"]["table"]) - start.model.encoder.max_length
    params = extend_positions(start.params, first + rows, how, stddev, experiment.seed, first)
    encoder = learner.encoder.clone(max_length=rows)
    return dataclasses.replace(start, params=params), learner.clone(encoder=encoder)


def _tokenizer(experiment: Experiment, start: Pretrained | None) -> Tokenizer:
    own = experiment.task.tokenizer()
    if own is None and start is None:
        raise ValueError("the data brings no tokenizer: give init_from, a run to take it from")
    if start is not None and start.tokenizer is None:
        raise ValueError(f"{experiment.init_from} has no tokenizer files: put its vocab.txt there")
    if own is not None and start is not None and own.fingerprint != start.tokenizer.fingerprint:
        raise ValueError(
            f"the data was prepared with another vocabulary than {experiment.init_from} was trained with "
            f"({own.vocab_size} pieces, fingerprint {own.fingerprint[:12]}; there {start.tokenizer.vocab_size}, "
            f"{start.tokenizer.fingerprint[:12]}): prepare it with the tokenizer in {experiment.init_from}/tokenizer"
        )
    return own or start.tokenizer


def _check_best_metric(
    best: str,
    scores: tuple[str, ...],
    learner: nn.Module,
    evaluations: dict[str, Source],
    batch: dict[str, np.ndarray],
    abstract: Any,
) -> None:
    """Raises ValueError for a metric that no evaluation has: it would be missed only when the first one is over."""
    if not best:
        return

    def metrics(params, batch):
        return learner.apply({"params": params}, learner.corrupt(jax.random.key(0), 0, batch), False)

    names = jax.eval_shape(metrics, nn.unbox(abstract), batch)
    names = [f"{source}/{name}" for source in evaluations for name in (*names, *scores)]
    if best not in names:
        raise ValueError(f"best_metric {best!r} is none of the metrics of an evaluation: {', '.join(names)}")


def check_heads(learner: nn.Module, start: Pretrained | None) -> None:
    """Raises ValueError for a head that computes otherwise than the one whose weights it would take over."""
    for name, there in (start.model.objectives if start else {}).items():
        head = learner.objectives.get(name)
        unread = () if getattr(there, "transform", True) else ("activation", "norm_epsilon")  # fields of a transform
        for field in (x for x in ("transform", "activation", "norm_epsilon", "tied", "hidden") if x not in unread):
            wanted = getattr(there, field, None)
            if head is not None and wanted is not None and getattr(head, field, wanted) != wanted:
                raise ValueError(
                    f"objective {name!r} has {field} {getattr(head, field)!r}, but the head to start from "
                    f"{wanted!r}: give --learner.objectives.{name}.{field.replace('_', '-')} {wanted}"
                )


def _initial(start: Pretrained | None, abstract: Any) -> dict[str, Any]:
    """The parts of the checkpoint's parameters that the learner has, by top-level name; all shapes must agree."""
    if start is None or start.params is None:
        return {}
    wanted = nn.unbox(abstract)
    parts = {name: start.params[name] for name in wanted if name in start.params}
    have, want = (
        {
            jax.tree_util.keystr(p, simple=True, separator="/"): x.shape
            for p, x in jax.tree_util.tree_leaves_with_path(t)
        }
        for t in (parts, {name: wanted[name] for name in parts})
    )
    wrong = [
        f"{name}: {have.get(name, 'missing')} there, {want.get(name, 'none')} wanted"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    if wrong:
        raise ValueError("the checkpoint to start from has another shape:\n  " + "\n  ".join(wrong))
    return parts

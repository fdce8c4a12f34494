"""Converts a checkpoint, and proves it: python tools/convert_checkpoint.py SOURCE DESTINATION --to hf|google|bert_jax

What was written is opened again, and its parameters and outputs are compared with the source's. Only if they agree does
DESTINATION appear. All that `bert_jax.load` opens is a source; both sides of a TF1 checkpoint need the extra
bert_jax[tensorflow].

    python tools/convert_checkpoint.py google-bert/bert-base-cased converted --to bert_jax
    python tools/convert_checkpoint.py runs/wiki converted --to hf --checkpoint best
    python tools/convert_checkpoint.py minilm converted --to google --activation gelu_tanh
"""

import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bert_jax.interop import names, tensors
from bert_jax.nn.mlp import Activation
from bert_jax.pretrained import Format, Pretrained, load, locate

# What a checkpoint with a tokenizer is compared on: plain and odd sentences of many lengths, and pairs.
TEXTS = (
    ("The harbour was quiet when the last ferry came in.", None),
    ("Rain!", None),
    ("In 1896, Dr. A. B. Müller-Lindqvist paid £3.50 (about 4,20 €) for it, didn't she?", None),
    ("东京的冬天很冷。", None),
    ("An embedding is a row of a table; the table has as many rows as the vocabulary has pieces. " * 4, None),
    ("Who wrote the letter?", "The letter, unsigned and undated, was found behind the stove in 1931."),
    ("They closed the bakery.", "Nobody buys bread there any more."),
)
STYLES: dict[Format, names.Style] = {"hf": "huggingface", "google": "google"}
WIDTH = 200  # of the tables, where the output is no terminal


@dataclass(frozen=True)
class Arguments:
    """Converts a checkpoint, opens what was written, and keeps it only if it computes the same."""

    source: tyro.conf.Positional[str]  # workdir, folder in Hugging Face's or Google's layout, or name on the hub
    destination: tyro.conf.Positional[Path]  # folder to make; must not exist
    to: Format  # layout to write
    heads: tuple[str, ...] | None = None  # heads to write; all if not given
    checkpoint: Literal["best", "latest"] = "latest"  # of a workdir
    activation: Activation | None = None  # compute with this one from now on: the destination may lack the source's
    tolerance: float = 1e-5  # largest difference allowed in any parameter or output


def convert(arguments: Arguments, console: Console) -> dict[str, float]:
    """Converts, checks and prints; the largest difference of the parameters and of each output.

    Raises ValueError where a difference is above the tolerance, and whatever `load` and `save` raise; the destination
    is not there then.
    """
    destination = arguments.destination
    if destination.exists():
        raise FileExistsError(f"{destination} exists and is not overwritten: choose another destination")
    if not arguments.tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {arguments.tolerance}")
    folder, layout = locate(arguments.source)
    source = load(folder, arguments.checkpoint)
    console.print(escape(f"{folder} ({layout}), heads: {', '.join(source.model.objectives) or 'none'}"))
    _print_notes("source", source.notes, console)
    batch, of_what = examples(source)
    if arguments.activation is not None:
        changed = with_activation(source, arguments.activation)
        title = f"what activation {arguments.activation} changes, {of_what}"
        _print_differences(title, compare(source, changed, batch)[0], console)
        source = changed
    partial = destination.with_name(f"{destination.name}.{os.getpid()}.unverified")
    try:
        source.save(partial, arguments.to, arguments.heads)
        written = load(partial)
        kept = _with_heads(source, arguments.heads)
        _print_names(kept, written, (folder, layout), (partial, arguments.to), console)
        _print_notes("written", written.notes, console)
        differences, lost = compare(kept, written, batch)
        lost += tuple(f"the head {name}" for name in source.model.objectives if name not in kept.model.objectives)
        lost += (f"the labels {', '.join(kept.labels)}",) if kept.labels and kept.labels != written.labels else ()
        _print_notes("written", [f"without {what}" for what in lost], console)
        _check_tokenizer(kept, written)
        _print_differences(f"largest difference, {of_what}", differences, console)
        if wrong := [
            f"{name} by {value:.3g}" for name, value in differences.items() if not value <= arguments.tolerance
        ]:
            raise ValueError(f"what was written differs: {', '.join(wrong)}; the tolerance is {arguments.tolerance}")
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    console.print(escape(f"wrote {destination} ({arguments.to})"))
    return differences


def examples(p: Pretrained) -> tuple[dict[str, np.ndarray], str]:
    """A batch (`tokens`, `segments`, `mask`) to compare outputs on, and what it is: sentences, or random ids."""
    encoder = p.model.encoder
    if p.tokenizer is None:
        rng = np.random.default_rng(0)
        length = min(encoder.max_length, 64)
        lengths = np.linspace(1, length, 8).astype(int)
        mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
        tokens, segments = (rng.integers(0, max(1, n), mask.shape) for n in (encoder.vocab_size, encoder.segment_types))
        return {"tokens": tokens, "segments": segments, "mask": mask}, "on random ids: there is no tokenizer"
    rows = [p.tokenizer.encode_pair(a, b, max_length=encoder.max_length) for a, b in TEXTS]
    length = max(len(row.ids) for row in rows)
    tokens = np.stack([np.pad(row.ids, (0, length - len(row.ids)), constant_values=p.tokenizer.pad_id) for row in rows])
    segments = np.stack([np.pad(row.segments, (0, length - len(row.ids))) for row in rows])
    mask = (np.arange(length) < np.array([[len(row.ids)] for row in rows])).astype(np.int32)
    segments = np.minimum(segments, max(0, encoder.segment_types - 1))
    return {"tokens": tokens, "segments": segments, "mask": mask}, f"on {len(rows)} sentences and pairs"


def compare(
    before: Pretrained, after: Pretrained, batch: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The largest absolute differences of `parameters` and of each output, and what of a pooler `after` has lost.

    Raises ValueError where anything else is lost.
    """
    sides = [_leaves(p) | dict(_in_float32(p)(**batch)) for p in (before, after)]
    lost = [name for name in sides[0] if name not in sides[1]]
    if others := [name for name in lost if name != "pooled" and not name.startswith("encoder/pooler/")]:
        raise ValueError(f"what was written lacks {', '.join(others)}")
    differences = {"parameters": 0.0}
    for name in sides[0].keys() & sides[1].keys():
        one, other = (np.asarray(side[name]) for side in sides)
        # Two shapes that happen to broadcast, or a value that is no number, are no agreement.
        error = np.abs(one - other) if one.shape == other.shape else np.array(math.inf)
        key = "parameters" if "/" in name else name
        if key == name and error.ndim == 3:  # of each token; what is computed of padding means nothing
            error = error[batch["mask"] > 0]
        difference = math.inf if np.isnan(error).any() else float(np.max(error))
        differences[key] = max(differences.get(key, 0.0), difference)
    return {name: differences[name] for name in ["parameters", *sides[0]] if name in differences}, tuple(lost)


def with_activation(p: Pretrained, activation: Activation) -> Pretrained:
    """The same weights under another activation, in the encoder and in the heads that have one."""
    heads = {
        name: head.clone(activation=activation) if hasattr(head, "activation") else head
        for name, head in p.model.objectives.items()
    }
    encoder = p.model.encoder.clone(activation=activation)
    return dataclasses.replace(p, model=p.model.clone(encoder=encoder, objectives=heads))


def layouts(p: Pretrained, style: names.Style, held: Collection[str] | None = None) -> dict[str, tuple[str, list[int]]]:
    """By path here, the (name, shape) elsewhere; names that stand for several tensors have {N} and {J}.

    held: the tensors that are in the file, which can be spelt in the older ways.
    """
    rows = {}
    leaves = _leaves(p)
    for name, axes, path, axes_here in names.layout(p.model.encoder, p.model.objectives, style):
        size = dict(zip(axes_here, leaves[path].shape, strict=True))
        shape = [math.prod(size[a] for a in group) for group in names.groups(axes)]
        rows[path] = (_spelt(name, held), shape)
    return rows


def _spelt(name: str, held: Collection[str] | None) -> str:
    """How a file spells a name: some leave out `bert.`, some have gamma and beta, some the decoder's bias alone."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    spellings = [name, old, name.replace("predictions.bias", "predictions.decoder.bias")]
    spellings += [spelling.removeprefix("bert.") for spelling in spellings]
    there = (s for s in spellings if held is None or s.replace("{N}", "0").replace("{J}", "query") in held)
    return next(there, name)


def _leaves(p: Pretrained) -> dict[str, Any]:
    """Parameters by path, those of heads that are left out excepted."""
    tops = {"encoder", *(f"objectives_{name}" for name in p.model.objectives)}
    params = {top: part for top, part in p.params.items() if top in tops}
    found = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def _in_float32(p: Pretrained) -> Pretrained:
    return dataclasses.replace(p, model=p.model.clone(encoder=p.model.encoder.clone(dtype="float32")))


def _with_heads(p: Pretrained, heads: Collection[str] | None) -> Pretrained:
    kept = {name: head for name, head in p.model.objectives.items() if heads is None or name in heads}
    return dataclasses.replace(p, model=p.model.clone(objectives=kept))


def _check_tokenizer(source: Pretrained, written: Pretrained) -> None:
    prints = [p.tokenizer.fingerprint if p.tokenizer is not None else None for p in (source, written)]
    if prints[0] != prints[1]:
        raise ValueError(f"what was written has another tokenizer: {prints[1]}, the source has {prints[0]}")


def _print_notes(where: str, notes: Collection[str], console: Console) -> None:
    for note in notes:
        console.print(escape(f"{where}: {note}"), style="bold")


def _print_differences(title: str, differences: Mapping[str, float], console: Console) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in differences.items():
        table.add_row(name, f"{value:.2e}" if value else "0")
    console.print(f"{title}:", table, sep="\n")


def _print_names(
    source: Pretrained, written: Pretrained, origin: tuple[Path, Format], end: tuple[Path, Format], console: Console
) -> None:
    """Each parameter by its name and shape in the source, here, and in what was written."""
    sides = {}
    for p, (folder, layout), title in ((source, origin, "source"), (written, end, "written")):
        if layout in STYLES:
            held = set(tensors.read_folder(folder)[0]) if layout == "hf" else None
            sides[f"{title} ({layout})"] = layouts(p, STYLES[layout], held)
        if title == "source":
            sides["here"] = {path: (path, list(leaf.shape)) for path, leaf in _leaves(p).items()}
    table = Table(*sides, box=None)
    for path in sides["here"]:
        there = (side.get(path) for side in sides.values())
        table.add_row(*(escape(f"{row[0]} {row[1]}") if row else "-" for row in there))
    console.print("parameters ({N} stands for a layer, {J} for query, key and value):", table, sep="\n")


def main() -> int:
    """Runs the command line; exit code 1 means that nothing was converted, and says why."""
    arguments = tyro.cli(Arguments)
    # TensorFlow greets its users at length. It computes nothing here.
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}.items():
        os.environ.setdefault(name, value)
    try:
        convert(arguments, Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

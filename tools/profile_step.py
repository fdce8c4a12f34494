"""Where the time of a training step goes: by module, forward and backward, dots and all else.

    python tools/profile_step.py --size base --length 128 --batch-size 16 --dtype bfloat16

A step of MLM and NSP with all dropout, on random tokens in full rows, runs under JAX's profiler, and what XLA executes
is put down to the module that it was traced in. Operations run beside each other on several threads, so the times are
shares of their sum and not of the step's seconds, which are given, too. `--trace DIR` keeps the trace, for Perfetto.
"""

import contextlib
import gzip
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import SIZES, bert
from bert_jax.nn.attention import AttentionKind
from bert_jax.nn.dot import ComputeDtype
from bert_jax.nn.dropout import DropoutBits
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape, Together
from bert_jax.training.step import make_init, make_train_step, state_shardings
from bert_jax.training.work_memory import keep_work_memory

OUTSIDE = "corruption, loss, update"  # of all modules


@dataclass(frozen=True)
class Arguments:
    size: Literal[tuple(SIZES)] = "base"
    """of the encoder"""
    vocab_size: int = 30522
    """V"""
    length: int = 128
    """L, all of it tokens"""
    batch_size: int = 16
    """rows"""
    dtype: ComputeDtype = "auto"
    """of the operands of dots"""
    attention: AttentionKind = "plain"
    """others than plain are without attention dropout"""
    dropout_bits: DropoutBits = "hash"
    """where dropout's random bits come from"""
    steps: int = 3
    """that are measured"""
    top: int = 30
    """lines of the table"""
    trace: Path | None = None
    """new folder for the trace"""


def training(given: Arguments) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """The compiled step, a state, and a batch."""
    encoder = bert(given.size, vocab_size=given.vocab_size, dtype=given.dtype, dropout_bits=given.dropout_bits)
    if given.attention != "plain":
        encoder = encoder.clone(attention=given.attention, attention_dropout=0.0)
    mlm = Mlm(max_predictions=round(0.15 * given.length), vocab_size=given.vocab_size, special_ids=(2, 3, 4))
    learner, optimizer = Multitask(encoder, {"mlm": mlm, "nsp": Nsp()}), BertAdam().build(1000)
    rows, rng = np.arange(given.batch_size), np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(5, given.vocab_size, (len(rows), given.length)).astype(np.int32),
        "segments": np.zeros((len(rows), given.length), np.int32),
        "lengths": np.full(len(rows), given.length, np.int32),
        "pair_label": (rows % 2).astype(np.int32),
        "example": rows.astype(np.uint32),
        "weight": np.ones(len(rows), np.float32),
    }
    mesh = MeshShape().build()
    shardings = state_shardings(learner, optimizer, batch, mesh)
    state = make_init(learner, optimizer, shardings, Together(mesh))(np.uint32(0), batch)
    step = make_train_step(learner, optimizer, shardings, Together(mesh))
    return step.lower(state, batch).compile(), state, batch


def instructions(program: str) -> dict[str, tuple[str, str]]:
    """Of each instruction of a compiled program JAX's name for it, and its text with that of what is fused into it."""
    texts, bodies, current = {}, {}, ""
    for line in program.splitlines():
        if started := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = started[1]
        elif defined := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line):
            texts[defined[1]] = defined[2]
            bodies.setdefault(current, []).append(defined[2])
    found = {}
    for name, text in texts.items():
        called = re.search(r"calls=%?([\w.\-]+)", text)
        whole = "\n".join([text, *bodies.get(called[1], ())] if called else [text])
        source = re.search(r'op_name="([^"]*)"', whole)
        found[name] = source[1] if source else "", whole
    return found


def executed(folder: Path) -> Iterator[tuple[str, float]]:
    """Name and milliseconds of all that a trace has seen."""
    (path,) = folder.rglob("perfetto_trace.json.gz")
    with gzip.open(path) as file:
        trace = json.load(file)
    for event in trace["traceEvents"] if isinstance(trace, dict) else trace:
        if event.get("ph") == "X":
            yield event["name"], event["dur"] / 1000


def belongs_to(source: str, text: str, modules: set[str]) -> tuple[str, str, str]:
    """Module, direction and kind of an instruction: ("layers/mlp/widen", "backward", "dot")."""
    parts = [part for part in re.split(r"[/()]", source) if part in modules]
    module = "/".join(dict.fromkeys(part for part in parts if part != "encoder"))
    direction = "backward" if "transpose(jvp" in source else "forward" if module else ""
    return module or OUTSIDE, direction, "dot" if re.search(r"\b(dot|custom-call)\(", text) else "other"


def main(given: Arguments) -> None:
    """Prints the table."""
    if given.trace is not None and given.trace.exists():
        raise SystemExit(f"error: {given.trace} exists; nothing is overwritten")
    keep_work_memory()
    step, state, batch = training(given)
    paths = jax.tree_util.tree_leaves_with_path(state.params)
    modules = {str(key.key) for path, _ in paths for key in path[:-1]} | {"Dropout_0"}
    known, times, seconds = instructions(step.as_text()), Counter(), []
    state, _ = step(state, batch)
    with contextlib.nullcontext(given.trace) if given.trace else tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(str(folder), create_perfetto_trace=True):
            for _ in range(given.steps):
                start = time.perf_counter()
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
                seconds.append(time.perf_counter() - start)
        for name, milliseconds in executed(Path(folder)):
            if name in known:
                times[belongs_to(*known[name], modules)] += milliseconds / given.steps
    show(given, times, seconds)


def show(given: Arguments, times: Counter, seconds: list[float]) -> None:
    """The table, the largest first, and the share of dots in all."""
    total = sum(times.values())
    table = Table("module", "direction", "kind", "ms a step", "share", box=box.MARKDOWN)
    for key, milliseconds in times.most_common(given.top):
        table.add_row(*key, f"{milliseconds:.1f}", f"{milliseconds / total:.1%}")
    console = Console(width=120)
    console.print(table)
    dots = sum(milliseconds for (*_, kind), milliseconds in times.items() if kind == "dot")
    console.print(
        f"{given.size}, {given.batch_size} x {given.length}, {given.dtype}, on {jax.devices()[0].device_kind}: "
        f"{1000 * min(seconds):.0f} ms a step at best; {total:.0f} ms on all threads together, dots {dots / total:.0%}"
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))

"""Predicts how a pre-training step scales: bytes that devices exchange, counted; links, from data sheets; hence times.

    python tools/predict_scaling.py --size large --length 128 --rows 256 --step-seconds 0.369 --clusters "DGX A100"

The step is compiled, and never run, for eight fake devices of a CPU, once for each way to split it: data (every device
has the whole model), fsdp (parameters and optimizer state in eighths), tensor (each layer in eighths). What its
collectives exchange is read from the compiled program. `--step-seconds` is one device's measured time for a step of
`--rows` rows (where there is none, `--mfu` assumes a share of the device's peak); `--accumulate` such steps make an
update. The time of a collective is its bytes over the link's bandwidth and a latency for each hop, in the node and
across nodes one after the other.

Prints tables, and writes them with a picture to `--output`. Efficiency is the throughput of a device as a share of what
one alone has with the same rows; `overlapped` lets all communication but that of tensor parallelism run behind the
computation, `exposed` none. The truth should lie between, and below both where devices wait for stragglers or data.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from bert_jax.experiment import one_line_errors
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import SIZES, bert
from bert_jax.nn.dot import ComputeDtype
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.training.collectives import KINDS, Collective, collectives
from bert_jax.training.flops import PEAKS, dot_flops
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape, Together
from bert_jax.training.step import make_init, make_train_step, state_shardings

DEVICES = 8  # fake ones, that the step is compiled for
Split = Literal["data", "fsdp", "tensor"]
MESHES: dict[Split, MeshShape] = {
    "data": MeshShape(data=DEVICES),
    "fsdp": MeshShape(data=1, fsdp=DEVICES),
    "tensor": MeshShape(data=1, tensor=DEVICES),
}
# XLA joins collectives into messages of about this size on GPUs, which bounds how often latency is paid.
MESSAGE_BYTES = 30 * 2**20


@dataclasses.dataclass(frozen=True)
class Link:
    """What a device sends through.

    Attributes:
        bandwidth: bytes/s in one direction of one device, as achieved by collectives.
        latency: seconds of a hop.
    """

    bandwidth: float
    latency: float


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Devices in nodes, with a link inside of a node and one between nodes.

    Attributes:
        node: devices.
        inside, between: links.
        peak: flop/s of a device in bfloat16.
        torus: dimensions of the node; a ring, or all to all, has one.
    """

    node: int
    inside: Link
    between: Link
    peak: float = math.nan
    torus: int = 1


# Bandwidths are 80 % of the line rate, which is what NCCL reaches over NVLink ("450 GB/s is the line rate. With the
# protocol overhead (~20 %)": github.com/NVIDIA/nccl-tests/issues/212); for InfiniBand and ICI that share is assumed.
# Latencies are assumed: of the order that NCCL's tuning tables have for a hop.
CLUSTERS = {
    # NVLink 3, 600 GB/s in both directions together; one 200 Gb/s HDR adapter a GPU (NVIDIA DGX A100 data sheet).
    "DGX A100": Cluster(8, Link(0.8 * 300e9, 4e-6), Link(0.8 * 25e9, 15e-6), PEAKS["A100"]),
    # NVLink 4, 900 GB/s in both directions together; one 400 Gb/s NDR adapter a GPU (NVIDIA DGX H100 user guide).
    "DGX H100": Cluster(8, Link(0.8 * 450e9, 4e-6), Link(0.8 * 50e9, 15e-6), PEAKS["H100"]),
    # 400 GB/s of ICI in both directions together, 256 chips a pod (docs.cloud.google.com/tpu/docs/v5e); pods are joined
    # by the data centre's network, 6.4 Tb/s a pod.
    "TPU v5e": Cluster(
        256, Link(0.8 * 200e9, 1e-6), Link(0.8 * 6.4e12 / 8 / 256, 50e-6), PEAKS["TPU v5 lite"], torus=2
    ),
    # 1,200 GB/s of ICI in both directions together, up to 6,144 chips a slice (docs.cloud.google.com/tpu/docs/v5p).
    "TPU v5p": Cluster(6144, Link(0.8 * 600e9, 1e-6), Link(0.8 * 50e9 / 8, 50e-6), PEAKS["TPU v5"], torus=3),
}


def seconds(kind: str, payload: float, group: int, cluster: Cluster, messages: int = 1) -> float:
    """Of one collective over `group` devices: a ring in the node, and a tree of rings with a share each between nodes.

    Args:
        payload: as of `Collective`.
        messages: that it is cut into; each pays the latency.
    """
    inner = min(group, cluster.node)
    outer = math.ceil(group / cluster.node)
    rounds = 2 if kind == "all-reduce" else 1
    time = rounds * (inner - 1) / inner * payload / cluster.inside.bandwidth
    hops = cluster.torus * (inner ** (1 / cluster.torus) - 1)  # along each dimension in turn
    latency = rounds * hops * cluster.inside.latency
    if outer > 1:
        time += rounds * (outer - 1) / outer * payload / inner / cluster.between.bandwidth
        latency += rounds * math.ceil(math.log2(outer)) * cluster.between.latency
    return time + messages * latency


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is trained, on what."""

    size: Literal["tiny", "mini", "small", "medium", "base", "large"] = "large"
    """of the model"""
    length: int = 128
    """tokens of a row"""
    rows: int = 64
    """of a device, in a micro-batch"""
    accumulate: int = 1
    """micro-batches of an update"""
    step_seconds: float | None = None
    """measured: one device, one micro-batch"""
    mfu: float | None = None
    """in place of a measurement: the share of its peak that a device is assumed to reach. Without either, bytes are
    counted and nothing is predicted"""
    clusters: tuple[str, ...] = tuple(CLUSTERS)
    """of the table at the top of this file"""
    devices: tuple[int, ...] = (8, 64, 512)
    """in all"""
    splits: tuple[Split, ...] = ("data", "fsdp", "tensor")
    """ways to split the step"""
    vocab_size: int = 30_522
    """rows of the table of tokens; tensor parallelism rounds it up to a multiple of 8"""
    dtype: ComputeDtype = "bfloat16"
    """of the operands of the dots"""
    output: Path | None = None
    """new folder for scaling.md, scaling.json and scaling.png"""

    def __post_init__(self):
        if unknown := set(self.clusters) - set(CLUSTERS):
            raise ValueError(f"no clusters {sorted(unknown)}; there are {', '.join(CLUSTERS)}")
        if self.step_seconds is not None and self.mfu is not None:
            raise ValueError("give step_seconds, which was measured, or mfu, which is assumed")
        if self.output is not None and self.output.exists():
            raise ValueError(f"{self.output} exists; nothing is overwritten")


def compiled(given: Arguments, split: Split) -> tuple[str, int, float]:
    """The step's compiled program for `DEVICES` devices, split one way; bytes of the parameters; flop of the dots of an
    update for the rows of one device."""
    vocab_size = -(-given.vocab_size // DEVICES) * DEVICES
    # Looped layers compile in a tenth of the time, and exchange what unrolled ones do.
    encoder = bert(given.size, vocab_size=vocab_size, dtype=given.dtype, max_length=max(512, given.length), scan=True)
    if split == "tensor" and encoder.num_heads % DEVICES:
        encoder = encoder.clone(num_heads=DEVICES * -(-encoder.num_heads // DEVICES))  # of another width, same bytes
    mlm = Mlm(max_predictions=round(0.15 * given.length), vocab_size=vocab_size, special_ids=(2, 3, 4))
    learner, optimizer = Multitask(encoder, {"mlm": mlm, "nsp": Nsp()}), BertAdam().build(1000)
    # Tensor parallelism splits no rows: eight devices have those of one, each with an eighth of the work.
    rows = given.rows * given.accumulate * (1 if split == "tensor" else DEVICES)
    batch = {
        "tokens": np.zeros((rows, given.length), np.int32),
        "segments": np.zeros((rows, given.length), np.int32),
        "lengths": np.full(rows, given.length, np.int32),
        "pair_label": np.zeros(rows, np.int32),
        "example": np.arange(rows, dtype=np.uint32),
        "weight": np.ones(rows, np.float32),
    }
    mesh = MESHES[split].build()
    together = Together(mesh)
    shardings = state_shardings(learner, optimizer, batch, mesh)
    state = jax.eval_shape(make_init(learner, optimizer, shardings, together), np.uint32(0), batch)
    step = make_train_step(learner, optimizer, shardings, together, given.accumulate)
    program = step.lower(state, batch).compile().as_text()

    def forward(params, batch):
        return learner.apply({"params": params}, learner.corrupt(jax.random.key(0), 0, batch), False)

    flops = 3.0 * dot_flops(forward, state.params, batch) * given.rows * given.accumulate / rows
    return program, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params)), flops


def predict(
    found: Sequence[Collective], split: Split, devices: int, cluster: Cluster, step_seconds: float, parameters: int = 0
) -> dict:
    """Seconds of communication and efficiency of an update on `devices`.

    With `tensor`, groups of eight are tensor parallel and share the rows: each group has eight times the rows of one
    device, so that its computation takes as long. Its gradients, an eighth of them on each device, are then summed over
    the groups.

    Args:
        found: collectives of the step on eight devices.
        step_seconds: of the computation of an update on one device.
        parameters: bytes, for the sums over groups of `tensor`.
    """
    if split == "tensor":
        # One after another, each waits for the one before: nothing is joined into larger messages.
        inside = sum(
            seconds(one.kind, DEVICES * one.times * one.payload, one.group, cluster, one.times) for one in found
        )
        between = _across(parameters / DEVICES, devices // DEVICES, cluster)
        computing = step_seconds + inside
        hidden = max(0.0, between - computing)
        exposed, overlapped = computing + between, computing + hidden
        communication = inside + between
    else:
        communication = sum(
            seconds(
                one.kind,
                one.times * one.payload,
                devices,
                cluster,
                max(1, round(one.times * one.payload / MESSAGE_BYTES)),
            )
            for one in found
        )
        exposed, overlapped = step_seconds + communication, max(step_seconds, communication)
    return {
        "communication": communication, "exposed": step_seconds / exposed, "overlapped": step_seconds / overlapped
    }  # fmt: skip


def _across(payload: float, groups: int, cluster: Cluster) -> float:
    """Seconds of an all-reduce over `groups` devices of which each has its own part of the model, in another group of
    eight: over the link between nodes where eight fill a node."""
    if groups == 1:
        return 0.0
    nodes = min(groups, max(1, cluster.node // DEVICES))
    apart = dataclasses.replace(cluster, node=nodes)
    return seconds("all-reduce", payload, groups, apart, max(1, round(payload / MESSAGE_BYTES)))


def count_table(counted: dict[str, list[Collective]], parameters: dict[str, int]) -> str:
    """What each split exchanges in an update, as a Markdown table."""
    lines = ["| split over 8 | collective | a step | payload, MB | sent by a device, MB | times the parameters |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for split, found in counted.items():
        for kind in KINDS:
            of_kind = [one for one in found if one.kind == kind]
            if of_kind:
                payload = sum(one.times * one.payload for one in of_kind)
                wire = sum(one.wire for one in of_kind)
                times = sum(one.times for one in of_kind)
                lines.append(
                    f"| {split} | {kind} | {times} | {payload / 1e6:.1f} | {wire / 1e6:.1f} | "
                    f"{wire / parameters[split]:.2f} |"
                )
    return "\n".join(lines)


def prediction_table(rows: Sequence[dict]) -> str:
    """The predictions as a Markdown table."""
    lines = [
        "| cluster | split | devices | communication, ms | efficiency, exposed | overlapped |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['cluster']} | {row['split']} | {row['devices']} | {1000 * row['communication']:.1f} | "
        f"{row['exposed']:.3f} | {row['overlapped']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def draw(rows: Sequence[dict], png: Path) -> None:
    """Efficiency over devices: a panel for each cluster, a colour for each split, a band from exposed to overlapped."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clusters = list(dict.fromkeys(row["cluster"] for row in rows))
    splits = list(dict.fromkeys(row["split"] for row in rows))
    figure = Figure(figsize=(3.6 * len(clusters), 3.4), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(clusters), squeeze=False, sharey=True)[0]
    for ax, cluster in zip(axes, clusters, strict=True):
        for color, split in enumerate(splits):
            own = [row for row in rows if (row["cluster"], row["split"]) == (cluster, split)]
            devices = [row["devices"] for row in own]
            low, high = ([row[name] for row in own] for name in ("exposed", "overlapped"))
            ax.fill_between(devices, low, high, color=f"C{color}", alpha=0.25)
            ax.plot(devices, low, "o-", color=f"C{color}", markersize=3.5, label=split)
        ax.set_xscale("log", base=2)
        ax.set_xticks(devices, devices)
        ax.set_ylim(0, 1.03)
        ax.set_title(cluster, fontsize="medium")
        ax.set_xlabel("devices")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("predicted efficiency")
    axes[0].legend(frameon=False, fontsize="small", loc="lower left")
    FigureCanvasAgg(figure).print_png(str(png), metadata={"Software": None})


def main(given: Arguments) -> None:
    """Counts, predicts, prints, writes."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    counted, parameters, flops = {}, {}, 0.0
    for split in given.splits:
        program, parameters[split], flops = compiled(given, split)
        counted[split] = collectives(program)
    counts = count_table(counted, parameters)
    print(
        f"bert-{given.size} {SIZES[given.size]}, {next(iter(parameters.values())) / 1e6:.0f} MB of parameters\n{counts}"
    )
    if given.step_seconds is None and given.mfu is None:
        return

    def computing(cluster: Cluster) -> float:
        return given.accumulate * given.step_seconds if given.mfu is None else flops / cluster.peak / given.mfu

    rows = [
        {"cluster": name, "split": split, "devices": devices}
        | predict(counted[split], split, devices, CLUSTERS[name], computing(CLUSTERS[name]), parameters[split])
        for name in given.clusters
        for split in given.splits
        for devices in given.devices
    ]
    table = prediction_table(rows)
    print(f"\npredicted, not measured:\n{table}")
    if given.output is not None:
        given.output.mkdir(parents=True)
        (given.output / "scaling.md").write_text(f"{counts}\n\n{table}\n", encoding="utf-8")
        record = {"arguments": {name: str(value) for name, value in vars(given).items()}, "predictions": rows}
        kinds = {split: Counter() for split in counted}
        for split, found in counted.items():
            for one in found:
                kinds[split][one.kind] += one.times * one.payload
        record["payload"] = kinds
        (given.output / "scaling.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        draw(rows, given.output / "scaling.png")


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__))

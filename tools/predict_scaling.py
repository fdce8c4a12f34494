"""Predicts how a pre-training step scales: bytes that devices exchange, counted; links, from data sheets; hence times.

    python tools/predict_scaling.py --size large --length 128 --rows 256 --step-seconds 0.369 --output runs/scaling

The step is compiled, and never run, for eight fake devices of a CPU, once for each way to split it: data (every device
has the whole model), fsdp (parameters and optimizer state in eighths), tensor (each layer in eighths). What its
collectives exchange is read from the compiled program. `--step-seconds` is one device's measured time for a step of
`--rows` rows; `--accumulate` such steps make an update. The time of a collective is its bytes over the link's bandwidth
and a latency for each hop, in the node and across nodes one after the other.

Prints tables, and writes them with a picture to `--output`. Efficiency is the throughput of a device as a share of what
one alone has with the same rows; `overlapped` lets all communication but that of tensor parallelism run behind the
computation, `exposed` none. The truth should lie between, and below both where devices wait for stragglers or data.
"""

import dataclasses
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import SIZES, bert
from bert_jax.nn.dot import ComputeDtype
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
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
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
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
    """Devices in nodes of `node`, with a link inside and one between nodes; one node may be all there is."""

    node: int
    inside: Link
    between: Link


# Bandwidths are 80 % of the line rate, which is what NCCL reaches over NVLink ("450 GB/s is the line rate. With the
# protocol overhead (~20 %)": github.com/NVIDIA/nccl-tests/issues/212); for InfiniBand and ICI that share is assumed.
# Latencies are assumed: of the order that NCCL's tuning tables have for a hop.
CLUSTERS = {
    # NVLink 3, 600 GB/s in both directions together; one 200 Gb/s HDR adapter a GPU (NVIDIA DGX A100 data sheet).
    "DGX A100": Cluster(8, Link(0.8 * 300e9, 4e-6), Link(0.8 * 25e9, 15e-6)),
    # NVLink 4, 900 GB/s in both directions together; one 400 Gb/s NDR adapter a GPU (NVIDIA DGX H100 user guide).
    "DGX H100": Cluster(8, Link(0.8 * 450e9, 4e-6), Link(0.8 * 50e9, 15e-6)),
    # 400 GB/s of ICI in both directions together, 256 chips a pod (docs.cloud.google.com/tpu/docs/v5e); pods are joined
    # by the data centre's network, 6.4 Tb/s a pod.
    "TPU v5e": Cluster(256, Link(0.8 * 200e9, 1e-6), Link(0.8 * 6.4e12 / 8 / 256, 50e-6)),
    # 1,200 GB/s of ICI in both directions together, up to 6,144 chips a slice (docs.cloud.google.com/tpu/docs/v5p).
    "TPU v5p": Cluster(6144, Link(0.8 * 600e9, 1e-6), Link(0.8 * 50e9 / 8, 50e-6)),
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One of a compiled step.

    Attributes:
        kind: of `KINDS`.
        payload: bytes of the whole array, as it is after an all-gather and before a reduce-scatter.
        group: devices that take part.
        times: in a step; more than 1 in a loop.
    """

    kind: str
    payload: int
    group: int
    times: int = 1

    @property
    def wire(self) -> float:
        """Bytes that each device sends for it, by a ring: of an all-reduce 2 (n - 1) / n times the payload."""
        share = (self.group - 1) / self.group
        return self.times * self.payload * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(program: str) -> list[Collective]:
    """Those of a compiled HLO module, each as often as its loop runs.

    Raises ValueError where a loop that holds one does not say how often it runs, or a group cannot be read.
    """
    bodies, entry = _computations(program)

    def of(name: str, times: int) -> Iterator[Collective]:
        for line in bodies.get(name, ()):
            found = re.search(rf" ({'|'.join(KINDS)})(?:-start)?\(", line)
            if found:
                yield _collective(line, found[1], times)
            for called, many in _called(line):
                inner = list(of(called, times * (many or 1)))
                if inner and many is None:
                    raise ValueError(f"a loop with collectives does not say how often it runs: {line.strip()[:120]}")
                yield from inner

    return [one for one in of(entry, 1) if one.group > 1]


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by name, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    current = entry = ""
    for line in program.splitlines():
        if started := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = started[2]
            bodies[current] = []
            entry = current if started[1] else entry
        elif current:
            bodies[current].append(line)
    return bodies, entry


def _called(line: str) -> Iterator[tuple[str, int | None]]:
    """Computations that a line runs, and how often; None if it does not say."""
    if " while(" in line:
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
        yield re.search(r"body=%?([\w.\-]+)", line)[1], int(trips[1]) if trips else None
    for name in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
        yield name, 1
    for names in re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", line):
        yield from ((name.strip().lstrip("%"), 1) for name in names.split(","))


def _collective(line: str, kind: str, times: int) -> Collective:
    result = line.split(" = ", 1)[1].split(f" {kind}", 1)[0]
    sizes = [
        BYTES[dtype] * math.prod(int(size) for size in shape.split(",") if size)
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
    ]
    group = _group(line)
    payload = sum(sizes) * (group if kind == "reduce-scatter" else 1)
    return Collective(kind, payload, group, times)


def _group(line: str) -> int:
    """Devices of a group: `mesh['a'=4,'b'=2] {'a'}`, `[2,4]<=[8]` or `{{0,1},{2,3}}`."""
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", named[2]))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if " collective-permute" in line:
        return 2
    raise ValueError(f"cannot read who takes part in {line.strip()[:160]}")


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
    latency = rounds * (inner - 1) * cluster.inside.latency
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
    """measured: one device, one micro-batch; without it only bytes are counted"""
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
        if self.output is not None and self.output.exists():
            raise ValueError(f"{self.output} exists; nothing is overwritten")


def compiled(given: Arguments, split: Split) -> tuple[str, int]:
    """The step's compiled program for `DEVICES` devices, split one way, and the bytes of the parameters."""
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
    return program, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))


def predict(found: Sequence[Collective], split: Split, devices: int, cluster: Cluster, step_seconds: float) -> dict:
    """Seconds of communication and efficiency of an update on `devices`.

    With `tensor`, groups of eight are tensor parallel, and as many groups as there are share the rows: each has eight
    times the rows of one device, so that its computation takes as long; its gradients, an eighth of them on each device,
    are then summed over the groups.

    Args:
        found: collectives of the step on eight devices.
        step_seconds: of the computation of an update on one device.
    """
    group = DEVICES if split == "tensor" else devices
    scale = DEVICES if split == "tensor" else 1  # rows
    communication = 0.0
    for one in found:
        messages = one.times if split == "tensor" else max(1, round(one.times * one.payload / MESSAGE_BYTES))
        payload = one.times * one.payload * scale
        communication += seconds(one.kind, payload, group, cluster, messages)
    return {
        "communication": communication,
        "exposed": step_seconds / (step_seconds + communication),
        "overlapped": step_seconds / (step_seconds + communication)
        if split == "tensor"
        else step_seconds / max(step_seconds, communication),
    }


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
    counted, parameters = {}, {}
    for split in given.splits:
        program, parameters[split] = compiled(given, split)
        counted[split] = collectives(program)
    counts = count_table(counted, parameters)
    print(
        f"bert-{given.size} {SIZES[given.size]}, {next(iter(parameters.values())) / 1e6:.0f} MB of parameters\n{counts}"
    )
    if given.step_seconds is None:
        return
    rows = [
        {"cluster": name, "split": split, "devices": devices}
        | predict(counted[split], split, devices, CLUSTERS[name], given.accumulate * given.step_seconds)
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
    try:
        main(tyro.cli(Arguments, description=__doc__))
    except ValueError as error:
        sys.exit(f"error: {error}")

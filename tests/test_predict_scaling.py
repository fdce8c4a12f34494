"""The prediction of scaling: bytes read from a compiled program agree with theory, times with hand-made sums."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tools.predict_scaling import (
    CLUSTERS,
    Arguments,
    Cluster,
    Collective,
    Link,
    collectives,
    compiled,
    draw,
    predict,
    prediction_table,
    seconds,
)

ROOT = Path(__file__).parents[1]


def test_data_parallel_exchanges_its_gradients_once():
    """Theory: 2 (n - 1) / n times the bytes of the parameters, and besides only some scalars. The gradient of positions
    that no row reaches is not exchanged; that of the table of words twice, from its use as a decoder and as a table."""
    given = Arguments(size="tiny", length=16, rows=1, vocab_size=96, dtype="float32")
    program, parameters, _ = compiled(given, "data")
    found = collectives(program)
    assert {one.kind for one in found} == {"all-reduce"}
    unseen, words = (512 - 16) * 128 * 4, 96 * 128 * 4
    assert sum(one.wire for one in found) == pytest.approx(2 * 7 / 8 * (parameters - unseen + words), rel=1e-4)


def test_fully_sharded_exchanges_parameters_and_no_activations():
    """Theory: parameters gathered for the forward and for the backward pass, gradients reduced once; on CPU, which has
    no reduce-scatter, that is 4 times 7/8 of their bytes. (Where the compiler is not told that rows stay where they
    are, it splits the products themselves, and exchanges the activations of all rows, which are larger here.)"""
    rows, length = 16, 32
    given = Arguments(size="tiny", length=length, rows=rows, vocab_size=96, dtype="float32")
    program, parameters, _ = compiled(given, "fsdp")
    assert sum(one.wire for one in collectives(program)) < 4 * parameters < 8 * rows * length * 512 * 4


def test_tensor_parallel_exchanges_activations_twice_a_layer():
    """After attention and after the feed-forward block, forward and backward: of [rows, length, width] in float32."""
    rows, length, width, layers = 2, 16, 128, 2
    given = Arguments(size="tiny", length=length, rows=rows, vocab_size=96, dtype="float32")
    program, _, flops = compiled(given, "tensor")
    assert flops == pytest.approx(6 * rows * length * layers * 12 * width**2, rel=0.3)
    activations = rows * length * width * 4
    of_that_size = sum(one.times for one in collectives(program) if activations <= one.payload < activations + 100)
    assert 4 * layers <= of_that_size <= 4 * layers + 4  # and those of the embeddings


CLUSTER = Cluster(4, Link(100.0, 0.1), Link(10.0, 1.0))


def test_seconds_of_a_collective():
    """In a node a ring; over nodes each device has its share of the payload, and the ring goes on between nodes."""
    assert seconds("all-gather", 400.0, 4, CLUSTER) == pytest.approx(3 / 4 * 4 + 3 * 0.1)
    assert seconds("all-reduce", 400.0, 4, CLUSTER) == pytest.approx(2 * (3 / 4 * 4 + 3 * 0.1))
    between = 2 * (1 / 2 * 400 / 4 / 10 + 1.0)
    assert seconds("all-reduce", 400.0, 8, CLUSTER) == pytest.approx(2 * (3 / 4 * 4 + 3 * 0.1) + between)
    assert seconds("all-reduce", 400.0, 8, CLUSTER, messages=3) == pytest.approx(
        2 * (3 / 4 * 4 + 3 * 3 * 0.1) + 2 * (1 / 2 * 400 / 4 / 10 + 3 * 1.0)
    )


def test_a_torus_has_shorter_rings():
    """4 x 4 x 4 devices are 3 hops from end to end in each of three dimensions, not 63; the bytes are the same."""
    ring = Cluster(64, Link(100.0, 1.0), Link(10.0, 1.0))
    torus = dataclasses.replace(ring, torus=3)
    assert seconds("all-gather", 0.0, 64, ring) == pytest.approx(63)
    assert seconds("all-gather", 0.0, 64, torus) == pytest.approx(9)
    assert seconds("all-gather", 6400.0, 64, torus) == pytest.approx(63 + 9)


def test_efficiency_is_bounded_by_no_and_full_overlap():
    """Communication that is hidden costs nothing until it takes longer than the computation."""
    found = [Collective("all-reduce", 400, 8)]
    communication = seconds("all-reduce", 400.0, 8, CLUSTER)
    fast = predict(found, "data", 8, CLUSTER, step_seconds=2 * communication)
    assert fast["exposed"] == pytest.approx(2 / 3) and fast["overlapped"] == 1.0
    slow = predict(found, "data", 8, CLUSTER, step_seconds=communication / 2)
    assert slow["exposed"] == pytest.approx(1 / 3) and slow["overlapped"] == pytest.approx(1 / 2)


def test_tensor_groups_share_the_rows():
    """Eight devices in a group: activations of eight times the rows inside, an eighth of the gradients between."""
    found = [Collective("all-reduce", 1000, 8, times=4)]
    one_node = Cluster(8, Link(1e6, 0.0), Link(1e3, 0.0))
    within = predict(found, "tensor", 8, one_node, 1.0, parameters=8000)["communication"]
    assert within == pytest.approx(2 * 7 / 8 * 4 * 8000 / 1e6)
    across = predict(found, "tensor", 16, one_node, 1.0, parameters=8000)["communication"]
    assert across - within == pytest.approx(2 * 1 / 2 * 1000 / 1e3)


# NVIDIA/DeepLearningExamples, PaddlePaddle/LanguageModeling/BERT, README: BERT-large, rows of 128, mixed precision, on
# up to 32 DGX A100: sequences/s by (GPUs, micro-batches of 256 rows that an update has).
PUBLISHED = {(8, 32): 5541, (16, 16): 10646, (32, 8): 21389, (64, 4): 41681, (128, 2): 79023, (256, 1): 157952}


def test_the_model_beside_published_throughput():
    """NVIDIA's own scaling of BERT-large on A100s, from its one GPU at 694 rows/s: what is predicted without overlap is
    an upper bound in all six cases, and no more than a tenth above."""
    parameters = 336e6 * 4
    for (gpus, accumulate), published in PUBLISHED.items():
        update = accumulate * 256 / 694
        found = [Collective("all-reduce", int(parameters), 8)]
        efficiency = predict(found, "data", gpus, CLUSTERS["DGX A100"], update)["exposed"]
        measured = published / (694 * gpus)
        assert measured <= efficiency + 0.01 and efficiency <= 1.1 * measured, (gpus, efficiency, measured)


def test_table_and_picture(tmp_path):
    """A row a prediction; the picture is a picture."""
    rows = [
        {"cluster": "here", "split": split, "devices": n, "communication": 0.001 * n, "exposed": 0.5, "overlapped": 1.0}
        for split in ("data", "tensor")
        for n in (8, 64)
    ]
    assert "| here | tensor | 64 | 64.0 | 0.500 | 1.000 |" in prediction_table(rows).splitlines()
    draw(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_arguments_that_cannot_be(tmp_path):
    """A cluster that is not in the table, and a folder that would be overwritten."""
    with pytest.raises(ValueError, match=r"no clusters .'mine'.; there are DGX A100"):
        Arguments(clusters=("mine",))
    with pytest.raises(ValueError, match="nothing is overwritten"):
        Arguments(output=tmp_path)


def test_the_command(tmp_path):
    """Counts, predicts and writes all three files."""
    command = [sys.executable, ROOT / "tools/predict_scaling.py", "--size", "tiny", "--length", "16", "--rows", "1"]
    flags = ["--vocab-size", "96", "--splits", "data", "--step-seconds", "0.01", "--output", tmp_path / "out"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "predicted, not measured" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scaling.md", "scaling.json", "scaling.png"}

"""Packed, trimmed, full: the same encoder, losses, gradients and runs, whatever is done about padding."""

import csv
import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from bert_jax import train as train_module
from bert_jax.data.packing import Layout, plan
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.models.frozen import Frozen
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.resolve import resolve
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import train
from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import AXES, MeshShape

pytestmark = pytest.mark.xdist_group("packing")  # the fixtures are runs: made once, in one process

V, L, N, D = 37, 40, 2, 12
LENGTHS = (3, 21, 7, 4, 12, 5, 9, 3, 16, 4, 6, 4)
B = len(LENGTHS)
SIZES = {"vocab_size": V, "num_layers": N, "width": D, "num_heads": 3, "mlp_width": 20, "max_length": L}
ENCODER = Bert(**SIZES, dropout=0.0, attention_dropout=0.0, scan=True)  # compiles faster
DROPPING = ENCODER.clone(dropout=0.1, attention_dropout=0.1)
KEY = jax.random.key(0)


def batch_of(lengths=LENGTHS, seed=0):
    """Rows of several lengths with the labels of every objective; the last three only fill up."""
    rng, rows = np.random.default_rng(seed), len(lengths)
    lengths = np.array(lengths, np.int32)
    real = np.arange(L) < lengths[:, None]
    label = rng.integers(0, 3, rows).astype(np.int32)
    return {
        "tokens": np.where(real, rng.integers(5, V, real.shape), 0).astype(np.int32),
        "segments": np.where(real, rng.integers(0, 2, real.shape), 0).astype(np.int32),
        "continues": real & (rng.random(real.shape) < 0.3),
        "tags": np.where(real, rng.integers(-1, 3, real.shape), -1).astype(np.int32),
        "lengths": lengths,
        "example": rng.permutation(1000)[:rows].astype(np.uint32),
        "weight": np.where(np.arange(rows) < rows - 3, 1, 0).astype(np.float32),
        "pair_label": rng.integers(0, 2, rows).astype(np.int32),
        "label": label,
        "target": rng.normal(size=rows).astype(np.float32),
        "targets": rng.integers(0, 2, (rows, 3)).astype(np.float32),
        "span": np.sort(rng.integers(0, lengths[:, None], (rows, 2)), axis=1).astype(np.int32),
    }


def layouts_of(batch):
    """The batch packed for one device and for two, trimmed, and full."""
    found = {
        "packed": Layout("packed", 24)([batch])[0],
        "packed for two": Layout("packed", 24, groups=2)([batch])[0],
        "trimmed": Layout("trimmed", L)([batch])[0],
        "full": Layout("full", L)([batch])[0],
    }
    assert [own.get("packing", np.zeros((0, 0, 0))).shape for own in found.values()] == [
        (1, 4, 24), (2, 3, 24), (0, 0, 0), (0, 0, 0)
    ]  # fmt: skip
    assert [own["tokens"].shape[1] for own in found.values()] == [24, 24, 24, 40]
    return found


def drawn(shapes):
    """Far from the initial values, so that every parameter matters."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        return jnp.asarray(rng.normal(1.0 if path[-1].key == "scale" else 0.0, 0.3, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(shapes)["params"])


def assert_close(found, wanted, what, bound=1e-5):
    """Within `bound` of the largest number of each array, or of a hundredth of the largest of all: a gradient can be
    zero but for rounding."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted), what
    least = 0.01 * max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        name = f"{what} {jax.tree_util.keystr(path)}"
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * max(np.abs(b).max(), least), err_msg=name)


# ---- the encoder -----------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(2, 3))
def encode(params, batch, encoder=ENCODER, train=False):
    return encoder.apply({"params": params}, batch, train, rngs={"dropout": KEY})


@pytest.fixture(scope="module")
def params():
    return drawn(jax.eval_shape(ENCODER.init, KEY, batch_of()))


@pytest.mark.parametrize(("causal", "dropout"), [(False, False), (True, False), (False, True)])
def test_the_encoder(params, causal, dropout):
    """Every layer's hidden states of every token, with dropout, too, and what is pooled of every sequence, its own
    [CLS] or, of a left-to-right encoder, its own last token; 0 at padding and in rows that only fill up."""
    encoder = (DROPPING if dropout else ENCODER).clone(causal=causal)
    found = {name: encode(params, batch, encoder, dropout) for name, batch in layouts_of(batch_of()).items()}
    wanted, real = found.pop("full"), np.arange(L) < np.array(LENGTHS)[:, None]
    pooler = params["pooler"]
    for name, encoded in found.items():
        columns = encoded.hidden.shape[1]
        own, rows = real[:, :columns].copy(), slice(None)
        if name != "trimmed":
            own[-3:], rows = False, slice(-3)
            assert not np.any(encoded.hidden[~own]) and not np.any(encoded.intermediates["layers"][:, ~own])
        assert_close(encoded.hidden[own], wanted.hidden[:, :columns][own], name)
        for part in ("embeddings", "layers"):
            a, b = encoded.intermediates[part], wanted.intermediates[part][..., :columns, :]
            assert_close(a[..., own, :], b[..., own, :], f"{name} {part}")
        assert_close(encoded.pooled[rows], wanted.pooled[rows], f"{name} pooled")
        assert encoded.sequence_ids is None and encoded.lengths.shape == (B,)
    column = np.array(LENGTHS) - 1 if causal else np.zeros(B, int)
    tokens = wanted.hidden[np.arange(B), column]
    assert_close(wanted.pooled, np.tanh(tokens @ pooler["kernel"] + pooler["bias"]), "pooled token")
    assert len({tuple(row) for row in np.asarray(wanted.pooled).round(4).tolist()}) == B


def test_neighbours_do_not_see_each_other(params):
    """Other tokens in one sequence change nothing in those beside it in the row, to the bit; nor does their order."""
    batch = layouts_of(batch_of())["packed"]
    row = next(own for own in batch["packing"][0] if len(set(own[own >= 0] // 24)) > 2)
    changed, *others = list(dict.fromkeys((row[row >= 0] // 24).tolist()))
    tokens = batch["tokens"].copy()
    tokens[changed, : LENGTHS[changed]] = 5 + (tokens[changed, : LENGTHS[changed]] - 4) % (V - 5)
    before, after = encode(params, batch).hidden, encode(params, batch | {"tokens": tokens}).hidden
    assert len(others) >= 2 and np.all(np.any(before[changed, :3] != after[changed, :3], axis=-1))
    rest = np.arange(B) != changed
    np.testing.assert_array_equal(before[rest], after[rest])


def test_one_width_for_packed_and_for_batch(params):
    """The plan may be wider than the batch, and narrower than the table of positions."""
    batch = layouts_of(batch_of())["trimmed"]
    wide = batch | {"packing": plan(batch["lengths"], 24, 2 * L)}
    np.testing.assert_allclose(encode(params, wide).pooled, encode(params, batch).pooled, atol=1e-5)


def test_packing_with_sequence_ids(params):
    """Is an error, and not one of the two."""
    batch = layouts_of(batch_of())["packed"]
    with pytest.raises(ValueError, match="packing is of right-padded rows"):
        encode(params, batch | {"sequence_ids": batch["tokens"]})


# ---- objectives ------------------------------------------------------------------------------------------------------

MLM = {"max_predictions": 5, "vocab_size": V, "special_ids": (2, 3, 4)}
FROZEN = Frozen((0, -1), lstm_width=6, lstm_layers=1)
LEARNERS = {
    "pre-training": Multitask(ENCODER, {"mlm": Mlm(**MLM), "nsp": Nsp()}),
    "whole words": Multitask(ENCODER, {"mlm": Mlm(**MLM, whole_word=True, tied=False)}),
    "left to right": Multitask(ENCODER.clone(causal=True), {"lm": CausalLm(), "nsp": Nsp()}),
    "fine-tuning": Multitask(
        ENCODER,
        {
            "classify": Classify(3, dropout=0.0),
            "multilabel": MultiLabel(3, dropout=0.0),
            "regress": Regress(dropout=0.0),
            "choice": Choice(3, dropout=0.0),
            "span": Span(),
            "tag": Tag(3, dropout=0.0),
        },
    ),
    "feature-based": Multitask(ENCODER, {"tag": Tag(3, dropout=0.0, features=FROZEN)}),
    "pre-training, dropout": Multitask(DROPPING, {"mlm": Mlm(**MLM), "nsp": Nsp()}),
    "fine-tuning, dropout": Multitask(DROPPING, {"classify": Classify(3), "choice": Choice(3), "tag": Tag(3)}),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_objectives(name):
    """Loss and accuracy of every objective, the gradients of all parameters, and what is predicted of every sequence
    and of every token that is one; neither corruption nor dropout depends on the layout."""
    learner, batch = LEARNERS[name], batch_of()

    @jax.jit
    def compute(params, batch):
        corrupted = learner.corrupt(KEY, 3, batch)

        def loss(params):
            metrics = learner.apply({"params": params}, corrupted, True, rngs={"dropout": KEY})
            return learner.loss_of(metrics), metrics

        metrics, gradients = jax.grad(loss, has_aux=True)(params)[::-1]
        return metrics, gradients, learner.apply({"params": params}, batch, method="predict")

    params = drawn(jax.eval_shape(lambda batch: learner.init(KEY, learner.corrupt(KEY, 3, batch), False), batch))
    found = {layout: jax.device_get(compute(params, own)) for layout, own in layouts_of(batch).items()}
    metrics, gradients, predictions = found.pop("full")
    if name.endswith("dropout"):
        still = jax.jit(lambda batch: learner.apply({"params": params}, learner.corrupt(KEY, 3, batch), False))
        assert abs(learner.loss_of(metrics) - learner.loss_of(still(batch))) > 1e-3
    assert all(mean.count > 0 for mean in metrics.values())
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradients.get("encoder"))) == learner.trains_encoder
    real = (np.arange(L) < np.array(LENGTHS)[:, None])[:-3]
    for layout, (own, own_gradients, predicted) in found.items():
        assert_close(own, metrics, f"{layout} metrics")
        assert_close(own_gradients, gradients, f"{layout} gradients")
        for key, values in predictions.items():
            values, others = values[:-3], predicted[key][:-3]
            if values.ndim == 3:
                columns = others.shape[1]
                values, others = values[:, :columns][real[:, :columns]], others[real[:, :columns]]
            assert_close(others, values, f"{layout} {key}")


# ---- whole runs ------------------------------------------------------------------------------------------------------

SPEEDS = ("examples_per_second", "tokens_per_second", "mfu")


def pretraining(corpus, **changes):
    encoder = Bert(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=32, init_stddev=0.1)
    return Experiment(
        task=Pretraining(corpus, valid_limit=40),
        learner=Multitask(encoder, {"mlm": Mlm(max_predictions=5, init_stddev=0.1), "nsp": Nsp(init_stddev=0.1)}),
        # With an eps that does not let the optimizer turn the rounding of a gradient near zero into a full update.
        optimizer=BertAdam(learning_rate=1e-2, eps=1e-3),
        **{
            "steps": 6, "batch_size": 64, "eval_batch_size": 64, "seed": 7, "log_every": 1, "eval_every": 3,
            "checkpoint_every": 3, "mesh": MeshShape(),
        } | changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def short_corpus(tiny_corpus, tmp_path_factory):
    """A corpus of instances of all lengths."""
    from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
    from bert_jax.data.documents import Document

    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("corpora") / "short"

    def document(topic):
        words = [topic + last for last in "lmn"]
        return Document([" ".join(rng.choice(words, 3, p=[0.6, 0.3, 0.1])) for _ in range(20)], sentences=True)

    train, valid = [document(topic) for topic in 15 * "abcd"], [document(topic) for topic in 5 * "abcd"]
    config = CorpusConfig(max_seq_length=32, dupe_factor=4, short_seq_prob=1.0)
    build_corpus(train, Corpus(tiny_corpus).tokenizer(), folder, config, valid=valid, workers=1)
    return folder


def metrics_of(workdir):
    """(step, name) -> value of all that does not depend on the clock."""
    return {
        (entry["step"], name): value
        for entry in read_metrics(workdir / "metrics.jsonl")
        for name, value in entry.items()
        if name not in ("step", "time") and not name.endswith(SPEEDS)
    }


def assert_same_run(a, b, rel=2e-5):
    found, wanted = metrics_of(a), metrics_of(b)
    assert found.keys() == wanted.keys() and len(wanted) > 20
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=rel, abs=rel), name
    x, y = (restore_params(folder / "checkpoints") for folder in (a, b))
    assert_close(x, y, "parameters", rel)


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of the batches that are trained on, by whether they are packed."""
    whole, seen = train_module.make_train_step, []

    def make_train_step(*args):
        step = whole(*args)

        def noted(state, batch):
            seen.append(("packing" in batch, batch["packing" if "packing" in batch else "tokens"].shape))
            return step(state, batch)

        return noted

    monkeypatch.setattr(train_module, "make_train_step", make_train_step)
    return seen


@pytest.fixture(scope="module")
def full_run(short_corpus, tmp_path_factory):
    """Without packing, with dropout."""
    workdir = tmp_path_factory.mktemp("full") / "seed-7"
    train(pretraining(short_corpus, padding="full"), workdir)
    return workdir


def test_pretraining_is_the_same(short_corpus, full_run, shapes, tmp_path):
    """On eight devices: every metric of training and evaluation, and the parameters in the end."""
    train(pretraining(short_corpus), tmp_path / "packed")
    assert all(packed and shape[0] == 8 and shape[1] < 8 for packed, shape in shapes)
    assert_same_run(tmp_path / "packed", full_run)


def test_one_device(short_corpus, full_run, shapes, tmp_path, monkeypatch):
    """Packs in one group, and trains as the eight did that packed nothing."""
    one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    monkeypatch.setattr(MeshShape, "build", lambda self: one)
    train(pretraining(short_corpus), tmp_path / "packed")
    assert all(packed and shape[0] == 1 and shape[1] < 64 for packed, shape in shapes)
    assert_same_run(tmp_path / "packed", full_run)


@pytest.mark.parametrize(("count", "mesh"), [(3, MeshShape(fsdp=8)), (8, MeshShape())])
def test_several_seeds(short_corpus, full_run, shapes, tmp_path, count, mesh):
    """At once, packed in one shape, split over the devices or each on its own, and the first of them alone, unpacked:
    the same."""
    train(pretraining(short_corpus, seeds=count, mesh=mesh), tmp_path / "w")
    groups = 8 if count == 3 else 1
    assert all(packed and shape[:2] == (count, groups) for packed, shape in shapes)
    assert_same_run(tmp_path / "w/seed-7", full_run)


def test_micro_batches(short_corpus, full_run, shapes, tmp_path):
    """Packed in groups of their own, each half of a device's rows, or not where they are too few for it, with layers
    computed again: the same run."""
    experiment = pretraining(short_corpus, accumulate=2, mesh=MeshShape(data=2, fsdp=4))
    encoder = experiment.learner.encoder.clone(remat="full")
    experiment = dataclasses.replace(experiment, learner=experiment.learner.clone(encoder=encoder))
    train(experiment, tmp_path / "micro")
    assert {shape[0] for packed, shape in shapes if packed} == {16}
    assert_same_run(tmp_path / "micro", full_run)


def test_stopped_and_continued(short_corpus, tmp_path, interrupted):
    """To the bit: the shapes of batches are a function of the step."""
    experiment = pretraining(short_corpus)
    train(experiment, tmp_path / "straight")
    interrupted(experiment, tmp_path / "stopped")
    train(experiment, tmp_path / "stopped")
    assert metrics_of(tmp_path / "stopped") == metrics_of(tmp_path / "straight")
    a, b = (restore_params(tmp_path / name / "checkpoints") for name in ("stopped", "straight"))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_fine_tuning_is_the_same(short_corpus, full_run, shapes, tmp_path):
    """Packed and trimmed, and so are the predictions of every example, the last batch being ragged; rows are as wide as
    the longest text must be, not as `max_length`."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 96), ("valid", 18)):
        lines = ["label\ttext"]
        for i in range(count):
            topic = "abcd"[i % 4]
            lines.append(f"{topic}\t" + " ".join(topic + last for last in rng.choice(list("lmn"), rng.integers(1, 9))))
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    experiment = Experiment(
        task=Classification(Tables(str(tmp_path / "train.tsv"), (str(tmp_path / "valid.tsv"),)), max_length=32),
        learner=Multitask(None, {"classify": Classify(init_stddev=0.1)}),
        optimizer=BertAdam(learning_rate=5e-3, eps=1e-3),
        init_from=full_run,
        steps=8,
        batch_size=64,
        eval_batch_size=16,
        log_every=1,
    )
    for padding in ("packed", "trimmed", "full"):
        train(dataclasses.replace(experiment, padding=padding), tmp_path / padding)
    assert all(packed and shape[::2] == (8, 16) for packed, shape in shapes[:8])
    assert shapes[8:] == 8 * [(False, (64, 16))] + 8 * [(False, (64, 32))]
    for padding in ("packed", "trimmed"):
        assert_same_run(tmp_path / padding, tmp_path / "full")
    files = [(tmp_path / name / "predictions-valid.tsv").read_text() for name in ("packed", "full")]
    rows = [list(csv.DictReader(text.splitlines(), delimiter="\t")) for text in files]
    assert len(rows[0]) == 18
    for a, b in zip(*rows, strict=True):
        assert all(float(a[key]) == pytest.approx(float(b[key]), abs=2e-5) for key in a if key.startswith("p("))
    config = json.loads((tmp_path / "packed/config.json").read_text())
    assert config["padding"] == "packed"
    with pytest.raises(ValueError, match="padding: 'packed' there, 'full' now"):
        train(dataclasses.replace(experiment, padding="full"), tmp_path / "packed")


def test_the_work_that_is_counted(short_corpus):
    """MFU is of the dots that are computed: those of packed places, not of padding that is not there, and of heads."""
    run = resolve(pretraining(short_corpus))
    flops, peak = train_module.speed_limit(run)
    batch = run.example_batch
    (full,), (packed,) = (Layout.of(run.train_source, padding, 8)([batch]) for padding in ("full", "packed"))
    width, layers, mlp = 16, 1, 16

    def encoder(rows, length):
        per_token = 4 * width * width + 2 * width * mlp + 2 * length * width
        return 2 * layers * rows * length * per_token

    places = packed["packing"].shape[0] * packed["packing"].shape[1]
    assert places < 64 and peak > 0
    assert flops(full) - flops(packed) == 3 * (encoder(64, 32) - encoder(places, 32))
    assert flops(full) == flops(run.example_batch) > 3 * encoder(64, 32)

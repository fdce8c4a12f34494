"""Fine-tuning beside `transformers`: step by step the same losses, and a model that was trained here predicts the same
there."""

import dataclasses
import gzip
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from jax.sharding import AxisType
from rich.console import Console

import bert_jax
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.resolve import resolve
from bert_jax.tasks.classification import Classification
from bert_jax.text.tokenizer import SPECIALS
from bert_jax.text.wordpiece import WordPiece
from bert_jax.train import train
from bert_jax.training.log import read_metrics
from bert_jax.training.optim import AdamW, BertAdam
from bert_jax.training.sharding import AXES, MeshShape, Together
from bert_jax.training.step import State, make_evaluate_step, make_train_step, state_shardings
from tests.interop.random_models import random_model
from tools import finetune_with_transformers as peer

ROOT = Path(__file__).resolve().parents[2]
ROWS, LENGTH = 18, 17
HEADS = {
    "classify": Classify(3, dropout=0.0),
    "regress": Regress(dropout=0.0),
    "multilabel": MultiLabel(3, dropout=0.0),
    "tag": Tag(3, dropout=0.0),
    "span": Span(),
    "choice": Choice(3, dropout=0.0),
    "choice_of_fewer": Choice(3, dropout=0.0),
}


def batches_of(name, vocab_size, count):
    """Batches of rows of several lengths with the labels of an objective. No token is 0, not even padding: PyTorch does
    not train the embedding of padding."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        lengths = rng.integers(4, LENGTH - 2, ROWS).astype(np.int32)
        tags = rng.integers(-1, 3, (ROWS, LENGTH)).astype(np.int32)
        label = rng.integers(0, 3, ROWS).astype(np.int32)
        targets = {
            "classify": {"label": label},
            "regress": {"target": rng.normal(size=ROWS).astype(np.float32)},
            "multilabel": {"targets": rng.integers(0, 2, (ROWS, 3)).astype(np.float32)},
            "tag": {"tags": np.where(np.arange(LENGTH) < lengths[:, None], tags, -1)},
            "span": {"span": np.stack([rng.integers(0, 2, ROWS), rng.integers(2, 4, ROWS)], 1).astype(np.int32)},
            "choice": {"label": np.repeat(label[:6], 3)},
            "choice_of_fewer": {"label": np.repeat(label[:6] % 2, 3), "choice_mask": np.tile([True, True, False], 6)},
        }
        yield {
            "tokens": rng.integers(1, vocab_size, (ROWS, LENGTH), np.int32),
            "segments": rng.integers(0, 2, (ROWS, LENGTH), np.int32),
            "lengths": lengths,
            "example": np.arange(ROWS, dtype=np.uint32),
            "weight": np.ones(ROWS, np.float32),
        } | targets[name]


@pytest.mark.parametrize("name", HEADS)
def test_steps(compare, tmp_path, name):
    """From the same weights, over the same batches, without dropout, standard AdamW goes the same way here and there:
    what differs between two columns of a table is then neither loss, nor optimizer, nor schedule, nor the data; and
    both are measured alike."""
    start = random_model({}, activation="gelu", dropout=0.0, attention_dropout=0.0, scan=True)  # compiles faster
    start.save(tmp_path / "start")
    torch.manual_seed(0)
    model = peer.opened(tmp_path / "start", HEADS[name], start.model.encoder)
    output = {key.split(".")[-1]: value.detach().numpy().copy() for key, value in list(model.named_parameters())[-2:]}
    head = {"output": {"kernel": output["weight"].T, "bias": output["bias"]}}
    learner = Multitask(start.model.encoder, {name: HEADS[name]})
    params = start.params | {f"objectives_{name}": head}
    batches = 5 * list(batches_of(name, learner.encoder.vocab_size, 2))
    optimizer = AdamW(learning_rate=1e-2, warmup=2, decay_all=False)

    mesh = jax.make_mesh((1, 1, 1), AXES, axis_types=3 * (AxisType.Auto,), devices=jax.devices()[:1])
    together, built = Together(mesh), optimizer.build(len(batches))
    shardings = state_shardings(learner, built, batches[0], mesh)
    step = make_train_step(learner, built, shardings, together)
    evaluate = make_evaluate_step(learner, shardings.params, together)
    state = jax.device_put(State(np.int32(0), np.uint32(0), params, built.init(params)), shardings)
    theirs = peer.evaluate_step(model, name, HEADS[name], "float32")(None, None, batches[0])
    ours = jax.device_get(evaluate(state.params, np.uint32(0), batches[0]))
    for i, kind in enumerate(("metrics", "predictions")):
        assert ours[i].keys() == theirs[i].keys()
        found, expected = (jax.tree_util.tree_leaves_with_path(side[i]) for side in (ours, theirs))
        found, expected = ({jax.tree_util.keystr(path): leaf for path, leaf in side} for side in (found, expected))
        compare(f"fine-tuning, {kind} before", found, expected)

    losses, norms = [], []
    for batch in batches:
        state, (_, scalars) = step(state, batch)
        losses.append(float(scalars["loss"]))
        norms.append(float(scalars["gradient_norm"]))
    expected = list(peer.train_steps(model, HEADS[name], batches, len(batches), optimizer, "float32"))
    for quantity, found, column in (("losses", losses, 0), ("gradient norms", norms, 1)):
        found, wanted = ({str(i): value for i, value in enumerate(of)} for of in (found, [e[column] for e in expected]))
        compare(f"fine-tuning, {quantity} of 10 steps", found, wanted, 1e-4)
    assert losses[-1] < 0.9 * losses[1]  # there was something to agree on


PIECES = [*SPECIALS, *(a + b for a in "abcd" for b in "lmn")]


@pytest.fixture
def fine_tuned(tmp_path):
    """A finished run: texts of words that share their first letter, which is the label, from random weights."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 64), ("valid", 18)):
        lines = ["label\ttext"]
        for i in range(count):
            topic = "abcd"[i % 4]
            lines.append(f"topic {topic}\t" + " ".join(topic + last for last in rng.choice(list("lmn"), 4)))
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    size = {"vocab_size": len(PIECES), "width": 36, "activation": "gelu"}
    random_model({"mlm": Mlm()}, tokenizer=WordPiece(PIECES), **size).save(tmp_path / "start", "bert_jax")
    data = Tables(str(tmp_path / "train.tsv"), (str(tmp_path / "valid.tsv"),))
    experiment = Experiment(
        task=Classification(data, max_length=8, metrics=("macro_f1",), name="topics"),
        learner=Multitask(None, {"classify": Classify()}),
        optimizer=BertAdam(learning_rate=3e-3),
        init_from=tmp_path / "start",
        epochs=10.0,
        batch_size=16,
        eval_batch_size=16,
        log_every=5,
        eval_every=20,
        best_metric="valid/classify/accuracy",
    )
    train(experiment, tmp_path / "run")
    return tmp_path / "run"


def fine_tune_all(workdir, output, **options):
    peer.fine_tune_all(peer.Arguments(workdir, output, **options), Console(file=io.StringIO()))


def test_tool(fine_tuned, tmp_path):
    """It learns, and its folder is that of a run of several seeds: the same files, fields, metrics and rows, with what
    made it in its `config.json`. A seed that was interrupted is made again, the same; a finished one is kept."""
    fine_tune_all(fine_tuned, tmp_path / "theirs", seeds=2)
    there = tmp_path / "theirs"
    assert {path.name for path in there.iterdir()} == {
        "config.json", "seed-12345", "seed-12346", "seeds.json", "seeds.md"
    }  # fmt: skip
    result = json.loads((fine_tuned / "result.json").read_text())
    config = json.loads((fine_tuned / "config.json").read_text())
    for seed in (12345, 12346):
        folder = there / f"seed-{seed}"
        found = json.loads((folder / "result.json").read_text())
        assert found.keys() == result.keys() and found["metrics"].keys() == result["metrics"].keys()
        same = ("name", "step", "baselines", "train_examples", "eval_examples")
        assert {key: found[key] for key in same} == {key: result[key] for key in same}
        assert found["seed"] == seed and found["degenerate"] is None and found["best"].keys() == result["best"].keys()
        lines = read_metrics(folder / "metrics.jsonl")
        losses = [line["train/loss"] for line in lines if "train/loss" in line]
        assert len(losses) == 8 and losses[-1] < losses[0] - 0.5
        assert [line["step"] for line in lines if "valid/classify/macro_f1" in line] == [20, 40]
        rows = [(path / "predictions-valid.tsv").read_text().splitlines() for path in (folder, fine_tuned)]
        assert rows[0][0] == rows[1][0] and len(rows[0]) == len(rows[1]) == 19
        record = json.loads((folder / "config.json").read_text())
        assert record.pop("peer") == f"transformers {transformers.__version__}, torch {torch.__version__}"
        assert record["optimizer"]["class"].endswith("AdamW") and not record["optimizer"]["decay_all"]
        assert record["optimizer"]["learning_rate"] == 3e-3
        assert {key for key in record if record[key] != config[key]} <= {"seed", "optimizer", "learner"}

    kept = [(there / f"seed-{seed}/predictions-valid.tsv") for seed in (12345, 12346)]
    texts, changed = [path.read_text() for path in kept], [path.stat().st_mtime_ns for path in kept]
    assert texts[0] != texts[1]
    (there / "seed-12346/result.json").unlink()
    fine_tune_all(fine_tuned, there, seeds=2)
    assert [path.read_text() for path in kept] == texts
    assert [path.stat().st_mtime_ns != old for path, old in zip(kept, changed, strict=True)] == [False, True]
    with pytest.raises(ValueError, match="exists and holds something else"):
        fine_tune_all(fine_tuned, there, seeds=3)


def test_start(fine_tuned, tmp_path):
    """The encoder is the one that the run started from, from our folder or theirs, and a head of another task there is
    not taken for the new one; with `random_weights` nothing is."""
    run = resolve(bert_jax.pretrained.load_experiment(fine_tuned))
    words = bert_jax.load(run.experiment.init_from).params["encoder"]["embeddings"]["words"]["table"]
    started = bert_jax.load(run.experiment.init_from)
    other = random_model({"choice": Choice(2)}, vocab_size=len(PIECES))
    dataclasses.replace(other, tokenizer=started.tokenizer).save(tmp_path / "choice")
    encoder = dataclasses.replace(started, model=started.model.clone(objectives={}))
    encoder.save(tmp_path / "encoder")

    def model_from(source, **changes):
        own = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, init_from=source, **changes))
        torch.manual_seed(0)
        with peer.start_folder(own) as folder:
            head = run.learner.objectives["classify"]
            return folder, peer.opened(folder, head, run.learner.encoder, own.experiment.random_weights)

    def words_of(model):
        return model.bert.embeddings.word_embeddings.weight.detach().numpy()

    folder, model = model_from(run.experiment.init_from)
    np.testing.assert_array_equal(words_of(model), words)
    assert not folder.exists()
    folder, same = model_from(tmp_path / "encoder")
    assert folder == tmp_path / "encoder"
    for ours, theirs in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    _, other = model_from(tmp_path / "choice")
    assert torch.equal(other.classifier.weight, model.classifier.weight)
    _, random = model_from(tmp_path / "encoder", random_weights=True)
    assert np.abs(words_of(random) - words).max() > 0.1
    assert model.config.hidden_dropout_prob == run.learner.encoder.dropout == 0.1


def test_errors(fine_tuned, tmp_path):
    """A run without a counterpart there says so, and without PyTorch the tool says what to install."""
    run = resolve(bert_jax.pretrained.load_experiment(fine_tuned))
    pretraining = dataclasses.replace(run, learner=run.learner.clone(objectives={"mlm": Mlm(), "tag": Tag(2)}))
    with pytest.raises(ValueError, match="the run has the objectives mlm, tag; needed is one of Classify"):
        peer.head_of(pretraining)
    decay = dataclasses.replace(run.experiment, optimizer=BertAdam(layer_decay=0.9))
    with pytest.raises(ValueError, match="the run has layer_decay, which this tool has no counterpart of"):
        peer.head_of(dataclasses.replace(run, experiment=decay))
    script = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    tool = ROOT / "tools/finetune_with_transformers.py"
    ended = subprocess.run([sys.executable, "-c", script, tool], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode and "pip install -e '.[parity]'" in ended.stderr and "Traceback" not in ended.stderr


def test_predictions_of_a_fine_tuned_model(compare, minilm, shared_data, tmp_path):
    """MiniLM, fine-tuned here and saved: transformers gives every sentence of a whole held-out set, from its text, the
    same class with the same probability."""
    rows = [line.split("\t") for line in (shared_data / "glue/SST-2/dev.tsv").read_text().splitlines()]
    text, label = rows[0].index("sentence"), rows[0].index("label")
    with gzip.open(shared_data / "glue/SST-2/train.tsv.gz", "rt", encoding="utf-8") as file:
        (tmp_path / "train.tsv").write_text("".join(itertools.islice(file, 1 + 24 * 16)))
    (tmp_path / "valid.tsv").write_text("\n".join("\t".join(row) for row in rows[:33]) + "\n")
    data = Tables(str(tmp_path / "train.tsv"), (str(tmp_path / "valid.tsv"),), text_columns=("sentence",))
    encoder = bert_jax.pretrained.load_architecture(minilm).model.encoder
    experiment = Experiment(
        task=Classification(data, max_length=24),
        learner=Multitask(encoder.clone(scan=True, dtype="float32"), {"classify": Classify()}),  # compiles faster
        optimizer=AdamW(learning_rate=3e-4),
        init_from=minilm,
        steps=24,
        batch_size=16,
        eval_batch_size=32,
        mesh=MeshShape(fsdp=8),  # each device updates its part of the weights, where one core computes for them all
    )
    train(experiment, tmp_path / "run")
    p = bert_jax.load(tmp_path / "run")
    p.save(tmp_path / "saved", "hf")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    sentences = [row[text] for row in rows[1:]]
    found = p.classify(sentences)
    batches = [sentences[i : i + 64] for i in range(0, len(sentences), 64)]
    with torch.no_grad():
        logits = [model(**tokenizer(batch, return_tensors="pt", padding=True)).logits for batch in batches]
    expected = torch.cat(logits).softmax(-1).numpy()
    names = [model.config.id2label[i] for i in expected.argmax(1)]
    assert len(names) == 872 and [one.label for one in found] == names
    probabilities = np.array([[one.probabilities[name] for name in model.config.id2label.values()] for one in found])
    compare("fine-tuned MiniLM, probabilities of 872 sentences", probabilities, expected)
    right = np.mean([name == row[label] for name, row in zip(names, rows[1:], strict=True)])
    assert right > 0.65  # it has learned something, so there was something to keep

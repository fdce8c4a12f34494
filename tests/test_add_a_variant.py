"""docs/add_a_variant.md: each example, as printed, is a file that trains, resumes, is sharded, evaluated and opened,
and as long as the page says."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax import evaluate
from bert_jax.experiment import parse
from bert_jax.interop.members import distilbert
from bert_jax.pretrained import load
from bert_jax.train import train
from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics
from bert_jax.training.sharding import MeshShape

pytestmark = pytest.mark.xdist_group("add-a-variant")  # the fixtures are runs: made once, in one process

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/add_a_variant.md").read_text(encoding="utf-8")
# `name.py` and what is said of its length, and the block that follows.
EXAMPLES = {
    name: (int(lines), code)
    for name, lines, code in re.findall(r"`(\w+)\.py`, (\d+) lines.*?```python\n(.*?)```", PAGE, re.S)
}
NAMES = ("rezero", "shuffled", "punctuation", "lion")
STEPS = 24
FLAGS = {  # what makes them small
    "steps": STEPS, "epochs": 0.0, "batch-size": 32, "eval-batch-size": 32, "log-every": 1, "eval-every": STEPS,
    "checkpoint-every": STEPS,
}  # fmt: skip
SIZES = {"num-layers": 2, "width": 32, "num-heads": 2, "mlp-width": 64, "max-length": 32, "init-stddev": 0.1}
ENCODER = {f"learner.encoder.{name}": value for name, value in SIZES.items()} | {"learner.encoder.scan": ""}
MLM = {"learner.objectives.mlm.max-predictions": 5, "learner.objectives.mlm.init-stddev": 0.1}
RATE = "optimizer.learning-rate"


def flags_of(given: dict) -> list[str]:
    return [word for name, value in given.items() for word in (f"--{name}", str(value)) if word]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The examples as files that can be imported."""
    folder = tmp_path_factory.mktemp("examples")
    for name, (_, code) in EXAMPLES.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in EXAMPLES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def arguments(folder, tiny_corpus):
    """The command line of each."""
    rng = np.random.default_rng(0)
    for split, lines in (
        ("train", 200),
        ("valid", 40),
    ):  # what there is to learn: a comma behind m, a full stop behind n
        words = [
            [a + b for a, b in zip(rng.choice([*"abcd"], 8), rng.choice([*"lmn"], 8), strict=True)]
            for _ in range(lines)
        ]
        marked = [[word + {"l": "", "m": ",", "n": "."}[word[1]] for word in line] for line in words]
        (folder / f"{split}.txt").write_text("".join(" ".join(line) + "\n" for line in marked))
    corpus = {"corpus": tiny_corpus, "valid-limit": 40} | ENCODER
    text = {"train-file": folder / "train.txt", "valid-file": folder / "valid.txt", "max-length": 32}
    given = {
        "rezero": corpus | MLM | {RATE: 1e-2},
        "shuffled": corpus | {RATE: 5e-3, "learner.objectives.shuffled.init-stddev": 0.1},
        "lion": corpus | MLM | {RATE: 2e-3},
        "punctuation": text | {RATE: 5e-3, "init-from": folder / "runs/rezero"},
    }
    return {name: flags_of(FLAGS | own) for name, own in given.items()}


@pytest.fixture(scope="module")
def experiments(folder, arguments):
    """Each as its command line makes it; `punctuation` starts from what `rezero` has learned."""
    found = {}
    for name, words in arguments.items():
        _, found[name] = parse(importlib.import_module(name).config, ["--workdir", "unused", *words])
    return found


@pytest.fixture(scope="module")
def finished(experiments, folder):
    """The workdir of each, trained without interruption."""
    for name, experiment in experiments.items():
        train(experiment, folder / "runs" / name)
    return folder / "runs"


def losses(workdir):
    return [line["train/loss"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]


def last_evaluation(workdir):
    return next(
        line for line in reversed(read_metrics(workdir / "metrics.jsonl")) if any("valid/" in key for key in line)
    )


# ---- all of them -----------------------------------------------------------------------------------------------------


def test_the_page_says_how_long_they_are():
    """Lines of each, as its file has them; and nothing on the page is an example that is not run."""
    assert tuple(EXAMPLES) == NAMES
    assert {name: lines for name, (lines, _) in EXAMPLES.items()} == {
        name: len(code.splitlines()) for name, (_, code) in EXAMPLES.items()
    }
    assert PAGE.count("```python") == len(NAMES) + 1  # and the table of names, below


def test_they_are_written_as_this_project_is(folder):
    """The examples pass its own check of style."""
    for how in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *how, "--config", ROOT / "pyproject.toml", "--no-cache", folder]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(finished, name):
    """The loss falls, and what there is to learn of punctuation is learned."""
    found = losses(finished / name)
    assert np.mean(found[-3:]) < {"shuffled": 0.95}.get(name, 0.75) * found[0]
    measured = last_evaluation(finished / name)
    if name == "punctuation":
        assert measured["valid/tag/accuracy"] > 0.95 and measured["valid/tag/f1"] > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_it_resumes(experiments, finished, tmp_path, interrupted, name):
    """Interrupted and started again it ends at the same parameters, to the bit."""
    interrupted(dataclasses.replace(experiments[name], checkpoint_every=4), tmp_path / "run")
    train(experiments[name], tmp_path / "run")
    ours, straight = (restore_params(folder / "checkpoints", None) for folder in (tmp_path / "run", finished / name))
    jax.tree.map(np.testing.assert_array_equal, ours, straight)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_on_several_devices(experiments, finished, tmp_path, name):
    """Split over eight devices, padded in place of packed, in micro-batches: the same losses but for rounding."""
    change = {"padding": "full", "mesh": MeshShape(data=2, fsdp=4), "accumulate": 2}
    train(dataclasses.replace(experiments[name], **change), tmp_path / "run")
    np.testing.assert_allclose(losses(tmp_path / "run")[:6], losses(finished / name)[:6], rtol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_evaluated(finished, capsys, name):
    """`python -m bert_jax.evaluate` finds again what the run measured."""
    measured = last_evaluation(finished / name)
    evaluate.main(finished / name)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed == {key: f"{value:.4f}" for key, value in measured.items() if key.startswith("valid/")}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_opened(finished, name):
    """`load` gives the encoder and the head, and both compute."""
    p = load(finished / name)
    kind = "ReZero" if name in ("rezero", "punctuation") else "Bert"
    assert type(p.model.encoder).__name__ == kind
    found = p(p.tokenizer.encode_pair("al am an", max_length=16).ids[None])
    assert found["hidden"].shape == (1, 5, 32)
    assert set(found) == {"hidden", {"shuffled": "shuffled_logits", "punctuation": "logits"}.get(name, "mlm_logits")}


# ---- what is particular to one ---------------------------------------------------------------------------------------


def test_a_file_that_is_run_is_found_by_its_name(folder, arguments, tmp_path):
    """`python rezero.py`: what the run records is `rezero.ReZero`, not a class of `__main__`, which is another for
    everyone who opens it; where its file is not to be found, the error says what to do."""
    words = arguments["rezero"]
    command = [sys.executable, folder / "rezero.py", "--workdir", tmp_path / "run", *words, "--steps", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    for _ in range(2):  # the second time it is a run that is there
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    assert '"class": "rezero.ReZero"' in (tmp_path / "run/learner.json").read_text()
    assert type(load(tmp_path / "run").model.encoder) is importlib.import_module("rezero").ReZero
    code = f"import bert_jax; bert_jax.load({str(tmp_path / 'run')!r})"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "class rezero.ReZero of the record cannot be imported" in run.stderr and "in PYTHONPATH" in run.stderr


def test_rezero_begins_as_the_identity():
    """With gates of 0 the last hidden state is the embeddings; otherwise not."""
    encoder = importlib.import_module("rezero").ReZero(
        vocab_size=40, **{k.replace("-", "_"): v for k, v in SIZES.items()}
    )
    batch = {"tokens": jnp.full((2, 5), 7)}
    params = nn.unbox(encoder.init(jax.random.key(0), batch)["params"])
    assert params["layers"]["gate"].shape == (2,)
    encoded = encoder.apply({"params": params}, batch)
    np.testing.assert_array_equal(encoded.hidden, encoded.intermediates["embeddings"])
    params["layers"]["gate"] += 0.5
    assert not np.allclose(encoder.apply({"params": params}, batch).hidden, encoded.hidden)


def test_shuffled_moves_tokens():
    """Each row keeps its tokens; [CLS], [SEP] and padding stay; what moved is what differs; about `rate` of them."""
    objective = importlib.import_module("shuffled").Shuffled(rate=0.5, special_ids=(2, 3, 4))
    rng = np.random.default_rng(0)
    lengths = np.array([64, 40, 3, 64])
    tokens = np.where(np.arange(64) < lengths[:, None], rng.integers(5, 5000, (4, 64)), 0)
    tokens[:, 0], tokens[np.arange(4), lengths - 1] = 2, 3
    batch = {"tokens": jnp.asarray(tokens), "lengths": jnp.asarray(lengths), "weight": jnp.array([1.0, 1, 1, 0])}
    found = objective.corrupt(jax.random.split(jax.random.key(0), 4), batch)
    shown = np.asarray(found["tokens"])
    np.testing.assert_array_equal(np.sort(shown, axis=1), np.sort(tokens, axis=1))
    np.testing.assert_array_equal(found["moved"], shown != tokens)
    special = tokens < 5
    np.testing.assert_array_equal(shown[special], tokens[special])
    np.testing.assert_array_equal(found["moved_weights"], ~special * np.array([1, 1, 1, 0])[:, None])
    assert 0.35 < np.asarray(found["moved"]).sum() / (~special).sum() < 0.65


def test_lion_is_that_of_optax(experiments):
    """Two updates are those of `optax.lion` where nothing is clipped, and norms and biases have no decay."""
    optimizer = dataclasses.replace(experiments["lion"].optimizer, warmup=0)
    params = {"kernel": jnp.array([0.5, -2.0]), "bias": jnp.array([1.0])}
    ours = optimizer.build(10)
    theirs = optax.lion(optimizer.schedule(10), 0.95, 0.98, weight_decay=0.1, mask={"kernel": True, "bias": False})
    states, found = [ours.init(params), theirs.init(params)], [params, params]
    for gradient in (
        {"kernel": jnp.array([0.1, -0.2]), "bias": jnp.array([0.3])},
        {"kernel": jnp.array([-0.3, 0.1]), "bias": jnp.array([0.0])},
    ):
        for i, transformation in enumerate((ours, theirs)):
            updates, states[i] = transformation.update(gradient, states[i], found[i])
            found[i] = optax.apply_updates(found[i], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)
    assert not np.allclose(found[0]["bias"], params["bias"])


def test_punctuation_is_written_out(finished):
    """The predictions file has a line for each word, with its mark and the one that was found."""
    lines = (finished / "punctuation/predictions-valid.tsv").read_text().splitlines()
    assert lines[0] == "word\tlabel\tprediction" and len(lines) == 1 + 40 * 8
    assert np.mean([label == found for _, label, found in (line.split("\t") for line in lines[1:])]) > 0.95


def test_punctuation_reads_text(tmp_path):
    """Marks are taken off the ends of words, the last one counts, and what is no mark of ours is "none"; a file without
    words is an error."""
    module = importlib.import_module("punctuation")
    found = module._without_marks("a file, line 3", "Wait... what?! Yes, (he said) -- no.")
    assert found.words == ["Wait", "what", "Yes", "(he", "said)", "--", "no"]
    assert found.tags == [".", "!", ",", "none", "none", "none", "."]
    (tmp_path / "empty.txt").write_text("\n ?\n")
    with pytest.raises(ValueError, match=r"empty\.txt holds no words"):
        module.Punctuation(tmp_path / "empty.txt", tmp_path / "empty.txt").train(None)


def test_the_table_at_the_top():
    """It has each example, and its lines."""
    rows = re.findall(r"^\| [\w ]+ \| \[`(\w+)`\]\(#[\w-]+\) \| (\d+) \|", PAGE, re.MULTILINE)
    assert [(name, int(lines)) for name, lines in rows] == [(name, lines) for name, (lines, _) in EXAMPLES.items()]


def test_the_table_of_names():
    """The excerpt of a member's file on the page is what that file says."""
    (excerpt,) = re.findall(r"```python\n(LAYER = .*?)```", PAGE, re.S)
    assert excerpt in Path(distilbert.__file__).read_text(encoding="utf-8")

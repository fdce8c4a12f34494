"""A member that is defined in this file only, encoder and objective, does what those of the package do: it trains, is
packed, resumes, is split over devices, trained with several seeds at once, evaluated and opened."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import evaluate
from bert_jax.experiment import Experiment
from bert_jax.interop.members import MEMBERS
from bert_jax.learners.multitask import Multitask
from bert_jax.models.encoded import Encoded
from bert_jax.nn.attention import visible_keys
from bert_jax.nn.dropout import Dropout, Places
from bert_jax.nn.linear import Linear, Table
from bert_jax.nn.losses import Mean
from bert_jax.nn.packing import Packing
from bert_jax.objectives.mlm import Mlm
from bert_jax.pretrained import load
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import train
from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape

pytestmark = pytest.mark.xdist_group("toy")  # the fixtures are runs: made once, in one process

STEPS = 24


class Bag(nn.Module):
    """Each token beside the mean of its sequence, N times; no attention, no positions, none of the package's towers."""

    vocab_size: int = 0
    num_layers: int = 2
    width: int = 32
    max_length: int = 32
    dropout: float = 0.1
    dtype: str = "auto"

    @nn.compact
    def __call__(self, batch, train=False):
        rows, packing = batch, None
        if "packing" in batch:
            packing = Packing(batch["packing"], *batch["tokens"].shape)
            rows = packing.inputs(batch)
        tokens = rows["tokens"]
        words = Table("VD", (self.vocab_size, self.width), 0.1, name="words")
        seen = visible_keys(tokens.shape[1], rows.get("lengths"), rows.get("sequence_ids"))
        seen = jnp.ones((1, 1, 1, 1)) if seen is None else seen
        seen = jnp.broadcast_to(seen[:, 0], (*tokens.shape, tokens.shape[1])).astype(jnp.float32)
        shares = seen / jnp.maximum(seen.sum(-1, keepdims=True), 1)
        x, places = words(tokens), Places.of_tokens(self._index(rows), self.width)
        layers = []
        for i in range(self.num_layers):
            both = jnp.concatenate([x, jnp.einsum("BLM,BMD->BLD", shares, x)], -1)
            mixed = nn.gelu(Linear("BLF,FD->BLD", (self.width,), 0.1, dtype=self.dtype, name=f"mix_{i}")(both))
            x += Dropout(self.dropout)(mixed, train, places)
            layers.append(packing.unpack(x) if packing else x)
        seen = (batch.get(name) for name in ("lengths", "sequence_ids", "row"))
        return Encoded(layers[-1], None, words.table, {"layers": jnp.stack(layers)}, *seen)

    @nn.nowrap
    def _index(self, rows):
        """Of each token in the whole batch, wherever it is computed: what its dropout is a function of."""
        if "positions" in rows:  # packed
            row, column = rows.get("row", rows["sequence_ids"] - 1), rows["positions"]
        else:
            row, column = jnp.indices(rows["tokens"].shape, sparse=True)
            row = rows["row"][:, None] if "row" in rows else row
        return row.astype(jnp.uint32) * jnp.uint32(self.max_length) + column.astype(jnp.uint32)


class Length(nn.Module):
    """How long is the text? A regression of the log of its length on the mean hidden state; it corrupts nothing."""

    @nn.compact
    def __call__(self, encoded, batch, train):
        errors = self._found(encoded) - jnp.log(batch["lengths"].astype(jnp.float32))
        return {"loss": Mean.of(jnp.square(errors), batch["weight"])}

    @nn.compact
    def outputs(self, encoded):
        return {"log_length": self._found(encoded)}

    @nn.nowrap
    def _found(self, encoded):
        inside = jnp.arange(encoded.hidden.shape[1]) < encoded.lengths[:, None]
        total = jnp.sum(encoded.hidden * inside[..., None], axis=1)
        return Linear("BD,DC->BC", (1,), 0.1, name="output")(total)[:, 0]


@pytest.fixture(scope="module")
def experiment(tiny_corpus):
    objectives = {"mlm": Mlm(max_predictions=5, init_stddev=0.1), "length": Length()}
    return Experiment(
        task=Pretraining(tiny_corpus, valid_limit=40),
        learner=Multitask(Bag(), objectives, {"length": 0.1}),
        optimizer=BertAdam(learning_rate=1e-2, eps=1e-3, schedule_steps=STEPS),
        steps=STEPS,
        batch_size=32,
        eval_batch_size=32,
        log_every=1,
        eval_every=STEPS,
        checkpoint_every=STEPS,
    )


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("toy") / "run"
    train(experiment, workdir)
    return workdir


def losses(workdir):
    return [line["train/loss"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]


def test_the_package_does_not_know_it():
    """It is in no list."""
    assert Bag not in [member.encoder for member in MEMBERS.values()]


def test_it_learns(finished):
    """Both objectives: the token from its sequence, and the length of the sequence."""
    lines = [line for line in read_metrics(finished / "metrics.jsonl") if "train/loss" in line]
    for name, share in (("mlm/loss", 0.8), ("length/loss", 0.5)):
        assert lines[-1][f"train/{name}"] < share * lines[0][f"train/{name}"]


def test_it_resumes(experiment, finished, tmp_path, interrupted):
    """Interrupted and started again it ends at the same parameters, to the bit."""
    interrupted(dataclasses.replace(experiment, checkpoint_every=4), tmp_path / "run")
    train(experiment, tmp_path / "run")
    ours, straight = (restore_params(folder / "checkpoints", None) for folder in (tmp_path / "run", finished))
    jax.tree.map(np.testing.assert_array_equal, ours, straight)


def test_it_is_the_same_however_it_is_computed(experiment, finished, tmp_path):
    """Padded rows in place of packed ones, parameters split over devices, micro-batches: the same losses."""
    assert experiment.padding == "packed"
    change = {"padding": "full", "mesh": MeshShape(data=2, fsdp=4), "accumulate": 2}
    train(dataclasses.replace(experiment, steps=6, **change), tmp_path / "run")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(finished)[:6], rtol=2e-4)


def test_seeds_at_once(experiment, finished, tmp_path):
    """Two seeds in one program are the two runs."""
    train(dataclasses.replace(experiment, steps=6, seeds=2), tmp_path / "both")
    first, second = sorted((tmp_path / "both").glob("seed-*"))
    np.testing.assert_allclose(losses(first), losses(finished)[:6], rtol=2e-4)
    assert not np.allclose(losses(second), losses(first))


def test_it_is_evaluated(finished, capsys):
    """Restored from its workdir alone, it measures what it measured at the end of the run."""
    measured = read_metrics(finished / "metrics.jsonl")[-1]
    evaluate.main(finished)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed == {key: f"{value:.4f}" for key, value in measured.items() if key.startswith("valid/")}
    assert {"valid/mlm/loss", "valid/length/loss"} <= printed.keys()


def test_it_is_opened(finished, tmp_path):
    """`load` gives encoder and heads, which compute, on text, too; saved in this project's layout it is opened again,
    and in no other's."""
    p = load(finished)
    assert type(p.model.encoder) is Bag and list(p.model.objectives) == ["mlm", "length"]
    tokens = p.tokenizer.encode_pair("al am an", "bl", max_length=16).ids[None]
    found = p(tokens, np.zeros_like(tokens), np.ones_like(tokens))
    assert found["hidden"].shape == (*tokens.shape, 32) and found["log_length"].shape == (1,)
    assert set(found) == {"hidden", "mlm_logits", "log_length"}
    assert p.fill_mask("al [MASK] al", top_k=1)[0][0].probability > 0
    assert p.embed("al am").shape == (32,)
    p.save(tmp_path / "saved", format="bert_jax")
    again = load(tmp_path / "saved")
    jax.tree.map(np.testing.assert_array_equal, again.params, p.params)
    with pytest.raises(ValueError, match="the encoder Bag has no counterpart outside this project"):
        p.save(tmp_path / "theirs", format="hf")


def test_it_starts_another(experiment, finished, tmp_path):
    """A run that starts from it has its encoder and heads."""
    learner = Multitask(None, {"mlm": Mlm(max_predictions=5)})
    change = {"learner": learner, "init_from": finished, "dropout": 0.2, "steps": 2}
    train(dataclasses.replace(experiment, **change), tmp_path / "run")
    assert load(tmp_path / "run").model.encoder.dropout == 0.2
    assert losses(tmp_path / "run")[0] < 0.9 * losses(finished)[0]

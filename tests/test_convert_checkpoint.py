"""Conversion: it computes the same afterwards or nothing is written, and whatever is lost is said by name."""

import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from bert_jax.interop import names, tensors
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import load
from bert_jax.text.tokenizer import SPECIALS
from bert_jax.text.wordpiece import WordPiece
from tests.interop.random_models import LABELS, random_model
from tools import convert_checkpoint
from tools.convert_checkpoint import Arguments, compare, convert, examples, layouts

PRETRAINING = {"mlm": Mlm(), "nsp": Nsp()}
TOKENIZER = WordPiece([*SPECIALS, *"abcdefghijklmnopqrstuvwxyz.,!?", "the", "##s", "was"])


def run(source, destination, to, **options):
    """The differences, and all that was printed."""
    console = Console(width=convert_checkpoint.WIDTH, file=io.StringIO())
    differences = convert(Arguments(str(source), destination, to, **options), console)
    return differences, console.file.getvalue()


@pytest.fixture
def source(tmp_path):
    """A pre-trained model with a tokenizer, in Hugging Face's layout."""
    random_model(PRETRAINING, tokenizer=TOKENIZER).save(tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize("to", ["hf", "bert_jax", "google"])
def test_there_and_back(source, tmp_path, to):
    """Converted and converted back, the model is the same to the bit, and nothing else is in the folder."""
    if to == "google":
        pytest.importorskip("tensorflow")
    for start, end, layout in ((source, "there", to), (tmp_path / "there", "back", "hf")):
        differences, _ = run(start, tmp_path / end, layout)
        assert differences == {"parameters": 0, "hidden": 0, "pooled": 0, "mlm_logits": 0, "nsp_logits": 0}
    wanted, found = load(source), load(tmp_path / "back")
    assert found.model == wanted.model
    assert found.tokenizer.fingerprint == TOKENIZER.fingerprint
    jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "there", "back"}


def test_what_is_compared(source, tmp_path):
    """Sentences where there is a tokenizer, pairs and all, and ids at random where there is none."""
    batch, of_what = examples(load(source))
    assert of_what == f"on {len(convert_checkpoint.TEXTS)} sentences and pairs"
    assert batch["tokens"][0, 0] == TOKENIZER.cls_id and batch["segments"].max() == 1
    assert 1 < len(set(batch["mask"].sum(axis=1)))
    random_model({}, segment_types=1).save(tmp_path / "bare")
    differences, printed = run(tmp_path / "bare", tmp_path / "out", "hf")
    assert "on random ids: there is no tokenizer" in printed and set(differences) == {"parameters", "hidden", "pooled"}
    random_model({}, segment_types=1, tokenizer=TOKENIZER).save(tmp_path / "one type")
    run(tmp_path / "one type", tmp_path / "out too", "hf")


def test_what_is_printed(source, tmp_path):
    """Names and shapes on both sides, unused tensors, heads left out, and what the other class has no place for."""
    file = source / tensors.SAFETENSORS
    tensors.write_safetensors(file, tensors.read_safetensors(file) | {"extra": np.zeros(3, np.float32)})
    _, printed = run(source, tmp_path / "out", "hf", heads=("mlm",))
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    row = (
        "bert.encoder.layer.{N}.attention.self.{J}.weight [36, 36] "
        "encoder/layers/attention/qkv/kernel [2, 36, 3, 3, 12] "
        "bert.encoder.layer.{N}.attention.self.{J}.weight [36, 36]"
    )
    assert row in lines
    assert "bert.pooler.dense.bias [36] encoder/pooler/bias [36] -" in lines
    assert "source: tensor extra (3,) is not used" in lines
    assert "written: without pooled" in lines and "written: without encoder/pooler/kernel" in lines
    assert "written: without the head nsp" in lines
    assert "written: there is no pooler: `pooled` and the heads that need it are not available" in lines


def test_labels_that_are_lost(tmp_path):
    """The original's configuration names no classes: that is said."""
    pytest.importorskip("tensorflow")
    random_model({"classify": Classify(3, labels=LABELS)}).save(tmp_path / "source")
    _, printed = run(tmp_path / "source", tmp_path / "out", "google")
    assert "written: without the labels no, perhaps, yes" in printed


def test_missing_tensors(source, tmp_path):
    """All of them in one error, and nothing is written."""
    file = source / tensors.SAFETENSORS
    gone = ("bert.pooler.dense.bias", "cls.predictions.bias")
    tensors.write_safetensors(file, {n: t for n, t in tensors.read_safetensors(file).items() if n not in gone})
    with pytest.raises(ValueError, match=r"pooler\.dense\.bias is missing(.|\n)*predictions\.bias is missing"):
        run(source, tmp_path / "out", "bert_jax")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize("part", ["encoder/layers/mlp/widen/kernel", "encoder/embeddings/words/table"])
def test_nothing_is_left_where_it_differs(source, tmp_path, monkeypatch, part):
    """One weight that came back wrong, of a piece that no sentence has, too: an error, and no folder."""

    def load_wrongly(folder, checkpoint="latest"):
        p = load(folder, checkpoint)
        if "out" in str(folder):
            leaves = convert_checkpoint._leaves(p)
            leaf = leaves[part]
            leaf[(-1,) * leaf.ndim] += 0.01
        return p

    monkeypatch.setattr(convert_checkpoint, "load", load_wrongly)
    with pytest.raises(ValueError, match=r"what was written differs: parameters by 0\.01.*tolerance is 1e-05"):
        run(source, tmp_path / "out", "hf")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    run(source, tmp_path / "out", "hf", tolerance=10.0)
    assert (tmp_path / "out").is_dir()


def test_comparison():
    """What is lost, has another shape or is no number is no agreement; a pooler may be lost, and is named."""
    p = random_model(PRETRAINING)
    batch, _ = examples(p)
    bare = dataclasses.replace(p, model=p.model.clone(objectives={}))
    with pytest.raises(ValueError, match=r"lacks objectives_mlm/bias, .*mlm_logits"):
        compare(p, bare, batch)
    without = dataclasses.replace(bare, model=bare.model.clone(encoder=bare.model.encoder.clone(pooler=False)))
    without.params["encoder"] = {name: part for name, part in p.params["encoder"].items() if name != "pooler"}
    p = random_model({})
    assert compare(p, without, batch)[1] == ("encoder/pooler/bias", "encoder/pooler/kernel", "pooled")
    broken = random_model({})
    broken.params["encoder"]["pooler"]["bias"] = np.full(36, np.nan, np.float32)
    differences, _ = compare(p, broken, batch)
    assert differences == {"parameters": math.inf, "hidden": 0.0, "pooled": math.inf}
    longer = random_model({}, max_length=18)
    assert compare(p, longer, batch)[0]["parameters"] == math.inf


def test_precision_of_a_run(source, tmp_path):
    """What computes in bfloat16 is compared in float32, and goes on in bfloat16 where the layout can say so."""
    p = load(source)
    p = dataclasses.replace(p, model=p.model.clone(encoder=p.model.encoder.clone(dtype="bfloat16")))
    p.save(tmp_path / "run", format="bert_jax")
    assert set(run(tmp_path / "run", tmp_path / "hf", "hf")[0].values()) == {0}
    assert set(run(tmp_path / "run", tmp_path / "again", "bert_jax")[0].values()) == {0}
    assert load(tmp_path / "again").model.encoder.dtype == "bfloat16"


def test_activation(tmp_path):
    """The exact GELU has no name in the original's layout; another activation is taken on only when asked for."""
    random_model({"mlm": Mlm()}, activation="gelu").save(tmp_path / "source")
    with pytest.raises(ValueError, match=r"activation 'gelu' has no name in bert_config\.json"):
        run(tmp_path / "source", tmp_path / "out", "google")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    differences, printed = run(tmp_path / "source", tmp_path / "out", "hf", activation="gelu_tanh")
    changes = re.search(r"what activation gelu_tanh changes(.|\n)*?hidden +(\S+)", printed)
    assert 0 < float(changes[2]) < 0.1
    assert set(differences.values()) == {0}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_act"] == "gelu_new"


def test_layouts():
    """The printed names and shapes are those of the tensors, in both styles and in the older spellings."""
    p = random_model(PRETRAINING | {"classify": Classify(3)})
    for style in ("huggingface", "google"):
        state = names.from_params(p.params, p.model.encoder, p.model.objectives, style)
        rows = layouts(p, style, set(state))
        assert len(rows) == len(jax.tree.leaves(p.params))
        found = {}
        for name, shape in rows.values():
            for n in range(2 if "{N}" in name else 1):
                for joined in names.JOINED if "{J}" in name else ("",):
                    found[name.replace("{N}", str(n)).replace("{J}", joined)] = tuple(shape)
        assert found == {name: value.shape for name, value in state.items()}
    held = {"encoder.layer.0.output.LayerNorm.gamma", "cls.predictions.decoder.bias"}
    rows = layouts(p, "huggingface", held)
    assert rows["encoder/layers/mlp_norm/scale"][0] == "encoder.layer.{N}.output.LayerNorm.gamma"
    assert rows["objectives_mlm/bias"][0] == "cls.predictions.decoder.bias"


def test_arguments_that_are_refused(source, tmp_path):
    """A destination that is there, a tolerance that is no number, an unknown head: before anything is written."""
    for options, message in (
        ({"tolerance": math.nan}, "tolerance must be 0 or more"),
        ({"heads": ("mlm", "tag")}, r"no heads \['tag'\]; there are \['mlm', 'nsp'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            run(source, tmp_path / "out", "hf", **options)
    with pytest.raises(FileExistsError, match="is not overwritten"):
        run(source, source, "hf")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_program(source, tmp_path, monkeypatch, capsys):
    """From the command line: exit code 0 and a folder, or 1, the reason, and no folder."""
    tool = Path(convert_checkpoint.__file__)
    command = [sys.executable, tool, source, tmp_path / "out", "--to", "bert_jax", "--heads", "mlm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"mlm_logits +0 *\n", done.stdout) and f"wrote {tmp_path / 'out'} (bert_jax)" in done.stdout
    assert list(load(tmp_path / "out").model.objectives) == ["mlm"]
    (source / tensors.SAFETENSORS).unlink()
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", str(source), str(tmp_path / "new"), "--to", "hf"])
    assert convert_checkpoint.main() == 1
    assert f"convert_checkpoint: {source} has no weights" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

"""Opening and saving: every kind of source, what it leaves out, and nothing half done."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax import pretrained
from bert_jax.interop import google, tensors
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import load, load_architecture, locate, write_learner
from bert_jax.text.tokenizer import SPECIALS
from bert_jax.text.wordpiece import WordPiece
from bert_jax.training.checkpoint import Checkpoints
from tests.interop.numpy_bert import forward
from tests.interop.random_models import LABELS, random_batch, random_model

PRETRAINING = {"mlm": Mlm(), "nsp": Nsp()}
TOKENIZER = WordPiece([*SPECIALS, *"abcdefg", "the", "##s"])


@pytest.fixture(scope="module")
def model():
    """A model for pre-training with random weights and a tokenizer, and a batch."""
    p = random_model(PRETRAINING, tokenizer=TOKENIZER)
    return p, random_batch(p.model, (17, 5, 1, 16), 17)


@pytest.fixture
def saved(model, tmp_path):
    """That model in Hugging Face's layout."""
    model[0].save(tmp_path / "saved")
    return tmp_path / "saved"


def assert_same_outputs(found, wanted, batch):
    one, other = found(**batch), wanted(**batch)
    assert one.keys() == other.keys()
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ---- calling ----


def test_outputs(model):
    """Arrays in, arrays out: names and shapes, with segments and mask or without."""
    p, batch = model
    shapes = {name: array.shape for name, array in p(**batch).items()}
    assert shapes == {"hidden": (4, 17, 36), "pooled": (4, 36), "mlm_logits": (4, 17, 67), "nsp_logits": (4, 2)}
    plain = p(batch["tokens"].tolist())
    explicit = p(batch["tokens"], np.zeros_like(batch["tokens"]), np.ones_like(batch["tokens"]))
    jax.tree.map(np.testing.assert_array_equal, plain, explicit)


def test_padding_and_holes_are_one(model):
    """A mask of right padding takes the fast way of lengths; both ways give the real tokens the same outputs."""
    p, batch = model
    real = batch["mask"] > 0
    assert set(p.batch(**batch)) == {"tokens", "segments", "lengths"}
    wanted = p(**batch)
    holes = p.batch(**batch) | {"sequence_ids": batch["mask"]}
    del holes["lengths"]
    found = pretrained.compute(p.model, p.params, holes, tuple(wanted))
    for name, array in wanted.items():
        kept = real if array.ndim == 3 else slice(None)
        np.testing.assert_allclose(found[name][kept], array[kept], rtol=1e-5, atol=1e-5)


def test_mask_with_holes(model, saved):
    """A mask with holes, or of padding on the left, is what it says: checked against an independent BERT."""
    p, batch = model
    mask = batch["mask"].copy()
    mask[0, 3:7] = 0
    mask[1] = mask[1, ::-1]
    assert set(p.batch(batch["tokens"], mask=mask)) == {"tokens", "sequence_ids"}
    config = json.loads((saved / "config.json").read_text())
    state = tensors.read_safetensors(saved / tensors.SAFETENSORS)
    wanted = forward(state, config, batch["tokens"], batch["segments"], mask)
    found = p(batch["tokens"], batch["segments"], mask)
    real = mask > 0
    for name in ("hidden", "mlm_logits"):
        np.testing.assert_allclose(found[name][real], wanted[name][real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": [1, 2]}, r"tokens has shape \(2,\), expected \[B, L\]"),
        ({"tokens": [[1.0, 2.0]]}, "tokens has dtype float64, expected integers"),
        ({"tokens": [[1, 67]]}, "tokens holds 1 to 67, but only 0 to 66"),
        ({"tokens": [[-1, 2]]}, "tokens holds -1 to 2"),
        ({"tokens": np.ones((1, 18), int)}, "rows of 18 tokens, but the encoder takes 17"),
        ({"tokens": [[1, 2]], "segments": [[0, 2]]}, "segments holds 0 to 2, but only 0 to 1"),
        ({"tokens": [[1, 2]], "segments": [0, 1]}, r"segments has shape \(2,\), but tokens \(1, 2\)"),
        ({"tokens": [[1, 2]], "mask": [[1, 2]]}, "mask holds 1 to 2"),
        ({"tokens": [[1, 2]], "mask": [[1, 1, 0]]}, r"mask has shape \(1, 3\)"),
        ({"tokens": [[1, 2]], "mask": [[1.0, 0.0]]}, "mask has dtype float64"),
    ],
)
def test_arguments(model, arguments, message):
    """Shapes, types and ids that the model has no place for are errors that say which."""
    with pytest.raises(ValueError, match=message):
        model[0](**arguments)


def test_mask_of_truth_values(model):
    """True and False are a mask, as 1 and 0 are."""
    p, batch = model
    assert_same_outputs(lambda mask, **rest: p(mask=mask > 0, **rest), p, batch)


# ---- sources ----


@pytest.mark.parametrize("layout", ["hf", "bert_jax", "google"])
def test_saved_and_opened(model, tmp_path, layout):
    """Model, weights, tokenizer and outputs come back to the bit; the folder holds nothing unfinished."""
    if layout == "google":
        pytest.importorskip("tensorflow")
    p, batch = model
    p.save(tmp_path / "new" / "saved", format=layout)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["saved"]
    again = bert_jax.load(str(tmp_path / "new" / "saved"))
    assert locate(tmp_path / "new" / "saved") == (tmp_path / "new" / "saved", layout)
    assert again.model == p.model and again.notes == ()
    assert again.tokenizer.fingerprint == TOKENIZER.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again.params, p.params)
    assert_same_outputs(again, p, batch)
    architecture = load_architecture(tmp_path / "new" / "saved")
    assert architecture.model == p.model and architecture.params is None
    with pytest.raises(ValueError, match="no weights to save"):
        architecture.save(tmp_path / "other")


def test_learner_of_a_run_is_kept(tmp_path):
    """In its own layout everything is kept: labels, settings of the objectives, precision, weights of the losses."""
    p = random_model({"mlm": Mlm(max_predictions=3, tied=False), "classify": Classify(3, labels=LABELS)})
    encoder = p.model.encoder.clone(dtype="bfloat16", remat="dots")
    p = dataclasses.replace(p, model=p.model.clone(encoder=encoder, weights={"mlm": 0.5, "classify": 2.0}))
    p.save(tmp_path / "whole", format="bert_jax")
    again = load(tmp_path / "whole")
    assert again.model == p.model and again.labels == LABELS
    p.save(tmp_path / "part", format="bert_jax", heads=["classify"])
    part = load(tmp_path / "part")
    assert list(part.model.objectives) == ["classify"] and part.model.weights == {"classify": 2.0}
    assert set(part.params) == {"encoder", "objectives_classify"}


def test_best_and_latest(tmp_path):
    """Of a workdir, `checkpoint` chooses; one that named no metric has no best."""
    learner = Multitask(Bert(vocab_size=9, num_layers=1, width=4, num_heads=1, mlp_width=4, max_length=4), {})
    for folder, best in ((tmp_path / "run", "loss"), (tmp_path / "plain", None)):
        folder.mkdir()
        write_learner(folder, learner)
        with Checkpoints(folder / "checkpoints", best=best) as checkpoints:
            for step, loss in ((1, 0.5), (2, 0.75)):
                checkpoints.save(step, {"params": {"encoder": {"x": np.full(2, step, np.float32)}}}, {"loss": loss})
    assert load(tmp_path / "run", "best").params["encoder"]["x"][0] == 1
    assert load(tmp_path / "run").params["encoder"]["x"][0] == 2
    assert load(tmp_path / "plain", "latest").params["encoder"]["x"][0] == 2
    with pytest.raises(ValueError, match="named no metric"):
        load(tmp_path / "plain", "best")


def test_folders_without_a_model(tmp_path):
    """What was looked for is said; so is a file in the place of a folder."""
    with pytest.raises(FileNotFoundError, match=r"neither learner.json .* nor config.json .* nor bert_config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileNotFoundError, match=r"has no weights: none of model\.safetensors"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config.json is a file: give its folder"):
        load(tmp_path / "config.json")
    for name in ("no/such/folder", "/no/such/folder", "../no", "~/no", "no folder"):
        with pytest.raises(FileNotFoundError, match=r"is not a folder, and no name on the Hugging Face hub"):
            load(name)


def test_which_layout(saved):
    """Where the files of both worlds lie side by side, those that need no TensorFlow are opened."""
    (saved / google.CONFIG).write_text("{}")
    assert locate(saved) == (saved, "hf")
    (saved / tensors.SAFETENSORS).rename(saved / "pytorch_model.bin")
    assert locate(saved) == (saved, "google")
    (saved / google.CONFIG).unlink()
    assert locate(saved) == (saved, "hf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ('{"class": "bert_jax.learners.multitask.Multitask"}', "missing .* argument"),
        ('{"class": "bert_jax.learners.multitask.None"}', "cannot be imported"),
        ('{"class": "os.system", "command": "touch BOOM"}', "os.system of the record is no dataclass"),
        ('{"class": "subprocess.Popen", "args": ["touch", "BOOM"]}', "subprocess.Popen of the record is no dataclass"),
    ],
)
def test_learner_that_is_damaged_or_hostile(model, tmp_path, content, message):
    """The record of a learner builds dataclasses, and calls nothing else that it names."""
    model[0].save(tmp_path / "saved", format="bert_jax")
    file = tmp_path / "saved" / pretrained.LEARNER_FILE
    file.write_text(content.replace("BOOM", str(tmp_path / "boom")))
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))} is damaged.*{message}"):
        load(tmp_path / "saved")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "default/_METADATA"])
@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b""), Path.unlink], ids=["emptied", "removed"])
def test_checkpoint_that_is_damaged(model, tmp_path, name, damage):
    """What describes a checkpoint is cut off or gone: the error names the folder."""
    model[0].save(tmp_path / "saved", format="bert_jax")
    folder = tmp_path / "saved" / "checkpoints"
    damage(folder / "0" / name)
    with pytest.raises(ValueError, match=rf"checkpoint {re.escape(str(folder / '0'))} is damaged"):
        load(tmp_path / "saved")


# ---- tokenizers ----


def test_without_a_tokenizer(saved):
    """A folder of weights alone is opened; there is no tokenizer then."""
    (saved / "vocab.txt").unlink()
    assert load(saved).tokenizer is None


def test_tokenizer_json_alone(saved):
    """The library's single file stands for the vocabulary and its options."""
    library = TOKENIZER._library
    library.save(str(saved / "tokenizer.json"))
    for name in ("vocab.txt", "tokenizer_config.json"):
        (saved / name).unlink()
    assert load(saved).tokenizer.fingerprint == TOKENIZER.fingerprint


def test_vocabulary_and_table(model, tmp_path):
    """A vocabulary smaller than the table is fine (tables are padded), a larger one does not belong to the model."""
    for size, fits in ((67, True), (68, False)):
        pieces = [*SPECIALS, *(f"p{i}" for i in range(size - len(SPECIALS)))]
        dataclasses.replace(model[0], tokenizer=WordPiece(pieces)).save(tmp_path / f"{size}")
        if fits:
            assert load(tmp_path / f"{size}").tokenizer.vocab_size == size
        else:
            with pytest.raises(ValueError, match="vocabulary has 68 pieces, but the model's table only 67 rows"):
                load(tmp_path / f"{size}")


# ---- saving ----


def test_nothing_is_overwritten(model, tmp_path):
    """A folder that is there stays as it is, be it empty."""
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        model[0].save(tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize("layout", ["hf", "bert_jax"])
def test_nothing_is_left_of_a_failure(model, tmp_path, monkeypatch, layout):
    """Whenever writing fails, the folder is not there, nor a half of it under another name."""

    def fail(self, folder):
        raise OSError("no space left on device")

    monkeypatch.setattr(WordPiece, "save", fail)  # the last thing that is written
    with pytest.raises(OSError, match="no space left"):
        model[0].save(tmp_path / "new", format=layout)
    assert not list(tmp_path.iterdir())


def test_heads_that_are_not_there(model, tmp_path):
    """An unknown head is found before a folder is made."""
    with pytest.raises(ValueError, match=r"no heads \['tag'\]; there are \['mlm', 'nsp'\]"):
        model[0].save(tmp_path / "new", heads=["mlm", "tag"])
    assert not list(tmp_path.iterdir())


# ---- names on the hub ----


def hub_cache(home, name, files):
    """A model as the hub's client keeps it: blobs, and a snapshot of links to them."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    revision = "0123456789" * 4
    for part in ("blobs", "refs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs/main").write_text(revision)
    for number, file in enumerate(files):
        shutil.copy(file, folder / "blobs" / f"{number:040}")
        (folder / "snapshots" / revision / file.name).symlink_to(f"../../blobs/{number:040}")


def test_names_on_the_hub(saved, tmp_path):
    """A name is opened from the hub's cache without network; what is not there is said, and pickles are not opened."""
    home, files = tmp_path / "home", sorted(saved.iterdir())
    hub_cache(home, "some/model", files)
    hub_cache(home, "short", files)
    pickled = tmp_path / "pytorch_model.bin"
    pickled.write_bytes(b"\x80")
    hub_cache(home, "some/pickle", [saved / "config.json", pickled])
    program = """
import json, sys
from bert_jax import load
found = {}
for name in sys.argv[1:]:
    try:
        p = load(name)
        found[name] = [p.tokenizer.fingerprint, list(p.model.objectives)]
    except FileNotFoundError as error:
        found[name] = str(error)
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "some/model", "short", "some/pickle", "some/other", "a--b/c"],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PATH": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(bert_jax.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["some/model"] == found["short"] == [TOKENIZER.fingerprint, ["mlm", "nsp"]]
    assert "neither safetensors nor flax_model.msgpack" in found["some/pickle"]
    assert "hf download some/pickle --local-dir FOLDER" in found["some/pickle"]
    assert "weights_only=True" in found["some/pickle"]
    for name in ("some/other", "a--b/c"):
        assert found[name].startswith(f"{name} is no folder, and not to be had from the Hugging Face hub: ")
    assert "HF_HUB_OFFLINE" in found["some/other"]

"""Damage to a checkpoint is found wherever it is, said, and put aside; nothing is lost by it."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.training.checkpoint import Checkpoints, restore_params
from bert_jax.training.checksums import damage, put_damaged_aside, steps_in


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three checkpoints, each with metrics."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder, keep=3, best="loss") as checkpoints:
        for step in (1, 2, 3):
            params = {"kernel": jnp.arange(600.0).reshape(20, 30) + step, "bias": jnp.full(30, step)}
            checkpoints.save(step, {"params": params, "step": jnp.int32(step)}, {"loss": abs(step - 2)})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of them to be damaged."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


def largest(checkpoint):
    """The file that holds the arrays."""
    return max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_whole_one_has_no_damage(saved):
    """Nor have those before it."""
    assert list(steps_in(saved)) == [1, 2, 3]
    assert [damage(path) for path in steps_in(saved).values()] == ["", "", ""]


def test_one_bit_anywhere(folder):
    """A bit turned over at random places of every file, the digests themselves included. Of the file that Orbax writes
    the time into, only what is used of it counts; `commit_success.txt` is not read by anyone."""
    rng = np.random.default_rng(0)
    exempt = ("_CHECKPOINT_METADATA", "commit_success.txt")
    found = [path for path in (folder / "3").rglob("*") if path.is_file() and path.name not in exempt]
    assert len(found) > 8
    for path in found:
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 20):
            content = bytearray(whole)
            content[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            assert damage(folder / "3"), (path, place)
        path.write_bytes(whole)
    assert damage(folder / "3") == ""
    description = folder / "3/_CHECKPOINT_METADATA"
    description.write_text(description.read_text().replace('"best": "loss"', '"best": "lost"'))
    assert damage(folder / "3") == "_CHECKPOINT_METADATA is not what was saved"


def test_what_is_said(folder):
    """Files by name, five at most; sizes where they differ."""
    arrays = largest(folder / "3")
    name = arrays.relative_to(folder / "3")
    was = arrays.stat().st_size
    arrays.write_bytes(arrays.read_bytes()[:100])
    assert damage(folder / "3") == f"{name} has 100 bytes, and had {was:,} when it was saved"
    arrays.unlink()
    assert damage(folder / "3") == f"{name} is missing"
    shutil.rmtree(folder / "3/default")
    assert damage(folder / "3").endswith("files more") and damage(folder / "3").count("is missing, ") == 5
    shutil.rmtree(folder / "3")
    (folder / "3").mkdir()
    assert damage(folder / "3") == "the folder is empty"
    (folder / "2/checksums.json").write_text("[1, 2]")
    assert damage(folder / "2").startswith("checksums.json cannot be read: ")


def test_without_digests(folder):
    """A checkpoint of an earlier version is taken as it is where the files are there that Orbax needs."""
    (folder / "3/checksums.json").unlink()
    assert damage(folder / "3") == ""
    assert restore_params(folder)["bias"][0] == 3
    (folder / "3/default/manifest.ocdbt").unlink()
    assert damage(folder / "3") == "default/manifest.ocdbt is missing"


def test_put_aside(folder):
    """Renamed, with a warning for each; the folder opens without them, and the step can be saved anew."""
    assert put_damaged_aside([folder]) == []
    (folder / "1/metrics/metrics").write_text("{")
    shutil.rmtree(folder / "3/default")
    warnings = put_damaged_aside([folder])
    assert len(warnings) == 2 and warnings[1].startswith(f"checkpoint {folder / '3'} is damaged: default/")
    assert [text.rpartition(" ")[2] for text in warnings] == ["1.damaged", "3.damaged"]
    assert (folder / "1.damaged/metrics/metrics").read_text() == "{"
    with Checkpoints(folder, keep=3, best="loss") as checkpoints:
        assert checkpoints.steps() == [2]
        checkpoints.save(3, {"params": {}, "step": jnp.int32(3)})
    (folder / "3/_CHECKPOINT_METADATA").unlink()
    assert put_damaged_aside([folder])[0].endswith("put aside as 3.damaged-2")


def test_of_several_runs(folder, saved, tmp_path):
    """Only where a step is left that all have whole; else nothing is renamed, and all that is damaged is named."""
    others = [shutil.copytree(saved, tmp_path / str(i)) for i in (1, 2)]
    shutil.rmtree(folder / "3/default")
    shutil.rmtree(others[0] / "2/default")
    assert len(put_damaged_aside([folder, *others])) == 2
    assert list(steps_in(folder)) == [1, 2] and list(steps_in(others[0])) == [1, 3]
    shutil.rmtree(others[1] / "1/default")
    with pytest.raises(ValueError, match=r"(?s)no whole checkpoint.*nothing was changed.*2/1 is damaged"):
        put_damaged_aside([folder, *others])
    assert list(steps_in(others[1])) == [1, 2, 3]


def test_nothing_saved_yet(tmp_path):
    """A new run, or one killed before its first checkpoint."""
    assert put_damaged_aside([tmp_path / "checkpoints"]) == []


def test_parameters_of_a_damaged_one(folder):
    """Opening a workdir refuses, and does not take another checkpoint than was asked for; whole ones still open."""
    flipped = largest(folder / "3")
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    for step in (None, 3):
        with pytest.raises(ValueError, match=r"checkpoints/3 is damaged: .*has other contents than were saved"):
            restore_params(folder, step)
    assert restore_params(folder, 2)["bias"][0] == 2

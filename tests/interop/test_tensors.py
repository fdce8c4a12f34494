"""Files of weights: read right in every precision, and refused with their name where they cannot be trusted."""

import json
import pickle
import re
import shutil
import struct
import subprocess
import sys

import flax.serialization
import ml_dtypes
import msgpack
import numpy as np
import pytest

from bert_jax.interop import huggingface, tensors
from bert_jax.objectives.mlm import Mlm
from tests.interop.random_models import random_model

STATE = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "a.bias": np.arange(3, dtype=np.float32)}
TREE = {"bert": {"dense": {"kernel": STATE["a.weight"], "bias": STATE["a.bias"]}}}


def outcome(folder):
    """The tensors of a folder, or the message of a ValueError that names one of its files."""
    try:
        return tensors.read_folder(folder)[0]
    except ValueError as error:
        assert str(folder) in str(error)
        return str(error)


def same(found, wanted):
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def write_shards(folder, weight_map=None):
    """STATE in two files with an index."""
    for number, (name, value) in enumerate(STATE.items(), 1):
        tensors.write_safetensors(folder / f"model-{number}.safetensors", {name: value})
    weight_map = weight_map or {name: f"model-{number}.safetensors" for number, name in enumerate(STATE, 1)}
    (folder / tensors.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_raw(file, header, data):
    """A safetensors file with this header, whatever it says."""
    content = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(content)) + content + data)


# ---- safetensors ----


def test_safetensors_there_and_back(tmp_path):
    """What is written is read again to the bit, and marked as transformers asks for."""
    tensors.write_safetensors(tmp_path / tensors.SAFETENSORS, STATE)
    found, file = tensors.read_folder(tmp_path)
    assert same(found, STATE) and file == tmp_path / tensors.SAFETENSORS
    assert b'{"format":"pt"}' in file.read_bytes()


@pytest.mark.parametrize(("dtype", "called"), [(np.float16, "F16"), (ml_dtypes.bfloat16, "BF16"), (np.float64, "F64")])
def test_safetensors_of_other_precision(tmp_path, dtype, called):
    """Half precisions keep their values: the bytes are written here by hand."""
    value = np.array([[1.5, -2.0], [0.25, 1e-3]], np.float32).astype(dtype)
    entry = {"dtype": called, "shape": [2, 2], "data_offsets": [0, value.nbytes]}
    write_raw(tmp_path / tensors.SAFETENSORS, {"x": entry}, value.tobytes())
    found = outcome(tmp_path)["x"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.float32), value.astype(np.float32))


def test_safetensors_of_unknown_precision(tmp_path):
    """A type that numpy cannot hold is an error with the file's name, not a crash."""
    write_raw(tmp_path / tensors.SAFETENSORS, {"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"ab")
    assert "kind that is not known" in outcome(tmp_path)


def test_safetensors_cut_off(tmp_path):
    """A file cut off anywhere is refused."""
    file = tmp_path / tensors.SAFETENSORS
    tensors.write_safetensors(file, STATE)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert "cut off or damaged" in outcome(tmp_path)
    file.write_bytes(content + b"\0")
    assert "cut off or damaged" in outcome(tmp_path)


def test_safetensors_with_a_flipped_bit(tmp_path):
    """No flipped bit of length or header is taken for something else: the file is refused, or lacks a name."""
    file = tmp_path / tensors.SAFETENSORS
    tensors.write_safetensors(file, STATE)
    content = file.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    for bit in range(8 * end):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        found = outcome(tmp_path)
        # The metadata and the padding of the header can change; a tensor cannot change under its name.
        assert isinstance(found, str) or found.keys() != STATE.keys() or same(found, STATE), bit


def test_a_folder_is_opened_whole_or_not_at_all(tmp_path):
    """The same for a whole model: with any bit of its header flipped it is refused by name or is as it was."""
    p = random_model({"mlm": Mlm()}, num_layers=1, width=6, mlp_width=4, vocab_size=5, max_length=4)
    p.save(tmp_path / "model")
    file = tmp_path / "model" / tensors.SAFETENSORS
    content = file.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    rng, refused = np.random.default_rng(0), 0
    wanted = tensors.read_safetensors(file)
    for bit in rng.choice(8 * end, 150, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            found = huggingface.read(tmp_path / "model")
        except ValueError as error:
            assert str(file) in str(error)
            refused += 1
        else:
            again = huggingface.names.from_params(found.params, found.encoder, found.objectives, "huggingface")
            assert same(again, wanted)
    assert refused > 100


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    """A model that diverged, or whose file is damaged, is refused: tensor, count and file are named."""
    p = random_model({}, num_layers=1)
    p.save(tmp_path / "model")
    file = tmp_path / "model" / tensors.SAFETENSORS
    state = {name: tensor.copy() for name, tensor in tensors.read_safetensors(file).items()}
    name = next(name for name in state if name.endswith("layer.0.output.dense.weight"))
    state[name][1, 2:4] = value
    tensors.write_safetensors(file, state)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: (.|\n)*{name} holds 2 values that are not finite"):
        huggingface.read(tmp_path / "model")


def test_git_lfs_pointer(tmp_path):
    """A clone without its large files says so, instead of calling the file damaged."""
    (tmp_path / tensors.SAFETENSORS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in outcome(tmp_path)


# ---- several files with an index ----


def test_shards(tmp_path):
    """A model in several files; they may be links, as in the hub's cache."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "model").mkdir()
    write_shards(tmp_path / "model")
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (tmp_path / "model" / name).rename(tmp_path / "blobs" / name)
        (tmp_path / "model" / name).symlink_to(f"../blobs/{name}")
    found, file = tensors.read_folder(tmp_path / "model")
    assert same(found, STATE) and file.name == tensors.INDEX


@pytest.mark.parametrize(
    "place",
    [
        "../model-1.safetensors",
        "/etc/passwd",
        "{parent}/secret.safetensors",
        "..",
        ".",
        "",
        "sub/model-1.safetensors",
        "sub/../model-1.safetensors",
        "..\\model-1.safetensors",
        "C:model-1.safetensors",
        "model-1.safetensors\0",
        "config.json",
        7,
        None,
        ["model-1.safetensors"],
    ],
)
def test_index_that_leaves_its_folder(tmp_path, place):
    """An index names files of its own folder; anything else is refused before a file is opened."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    write_shards(folder)
    for copy in (tmp_path / "secret.safetensors", tmp_path / "model-1.safetensors", folder / "sub/model-1.safetensors"):
        shutil.copy(folder / "model-1.safetensors", copy)
    place = place.format(parent=tmp_path) if isinstance(place, str) else place
    write_shards(folder, {"a.weight": place})
    assert tensors.INDEX in outcome(folder)


def test_shard_that_is_missing(tmp_path):
    """An incomplete download is named."""
    write_shards(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-2.safetensors, which is not in .* download is incomplete"):
        tensors.read_folder(tmp_path)


def test_index_that_names_what_is_not_there(tmp_path):
    """A tensor that the index promises, but its file lacks."""
    write_shards(tmp_path, {"a.weight": "model-1.safetensors", "a.bias": "model-1.safetensors"})
    assert re.search(r"model-1.safetensors lacks a.bias, which .*index.json says is there", outcome(tmp_path))


def test_tensor_in_two_shards(tmp_path):
    """Which of the two would be right is not guessed."""
    write_shards(tmp_path)
    tensors.write_safetensors(tmp_path / "model-2.safetensors", {**STATE, "a.weight": 2 * STATE["a.weight"]})
    assert "holds a.weight, as does another file" in outcome(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", "{}", '{"weight_map": []}', '{"weight_map": {"a": {}}}', 9999 * "["]
)
def test_index_that_is_damaged(tmp_path, content):
    """An index that is cut off, or another thing."""
    (tmp_path / tensors.INDEX).write_text(content)
    assert re.search(rf"{tensors.INDEX} (is damaged|points at)", outcome(tmp_path))


# ---- msgpack ----


def test_msgpack_under_the_names_of_pytorch(tmp_path):
    """Kernels are transposed and every leaf gets the name that PyTorch's class has for it."""
    norm = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    tree = TREE | {"words": {"embedding": STATE["a.weight"]}, "layer": {"0": norm}}
    (tmp_path / tensors.MSGPACK).write_bytes(flax.serialization.msgpack_serialize({"params": tree}))
    wanted = {
        "bert.dense.weight": STATE["a.weight"].T,
        "bert.dense.bias": STATE["a.bias"],
        "words.weight": STATE["a.weight"],
        "layer.0.weight": norm["scale"],
        "layer.0.bias": norm["bias"],
    }
    assert same(outcome(tmp_path), wanted)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_msgpack_of_half_precision(tmp_path, dtype):
    """Half precisions keep their values."""
    value = STATE["a.weight"].astype(dtype)
    (tmp_path / tensors.MSGPACK).write_bytes(flax.serialization.msgpack_serialize({"x": value}))
    assert outcome(tmp_path)["x"].dtype == dtype and same(outcome(tmp_path), {"x": value})


def test_msgpack_of_big_arrays(tmp_path, monkeypatch):
    """Flax cuts arrays of more than a gigabyte into chunks; here, of more than 16 bytes."""
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    content = flax.serialization.msgpack_serialize({"dense": {"kernel": STATE["a.weight"].copy()}})
    assert b"__msgpack_chunked_array__" in content
    (tmp_path / tensors.MSGPACK).write_bytes(content)
    assert same(outcome(tmp_path), {"dense.weight": STATE["a.weight"].T})


@pytest.mark.parametrize("chunked", [False, True])
def test_msgpack_cut_off_or_flipped(tmp_path, monkeypatch, chunked):
    """Cut off anywhere it is refused; with a flipped bit it is refused, or is still a tree of arrays."""
    if chunked:
        monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    file = tmp_path / tensors.MSGPACK
    content = flax.serialization.msgpack_serialize({"dense": {"kernel": STATE["a.weight"].copy()}})
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert "damaged" in outcome(tmp_path)
    for bit in range(0, 8 * len(content), 3):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        found = outcome(tmp_path)
        assert isinstance(found, str) or all(isinstance(value, np.ndarray) for value in found.values())


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(STATE),
        b"PK\x03\x04" + bytes(100),
        b"",
        msgpack.packb(7),
        msgpack.packb([1, 2]),
        msgpack.packb({"params": {"x": "text"}}),
        msgpack.packb({"params": [1]}),
        msgpack.packb({"x": msgpack.ExtType(9, b"abc")}),
        b"\x81\xa1x" * 5000,
        b"<!DOCTYPE html><html>",
    ],
)
def test_msgpack_that_is_something_else(tmp_path, content):
    """A pickle, an archive, an empty file, other msgpack, a web page: refused by name."""
    (tmp_path / tensors.MSGPACK).write_bytes(content)
    assert "damaged" in outcome(tmp_path)


def test_msgpack_with_two_names_for_one(tmp_path):
    """`kernel` and `weight` side by side: neither wins in silence."""
    tree = {"dense": {"kernel": STATE["a.weight"], "weight": STATE["a.weight"]}}
    (tmp_path / tensors.MSGPACK).write_bytes(flax.serialization.msgpack_serialize(tree))
    assert "dense.weight twice" in outcome(tmp_path)


# ---- what is not opened ----


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth"])
def test_pickles_are_refused(tmp_path, name):
    """A pickle is not opened; the message has the command that converts it."""
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    message = outcome(folder)
    assert f"{folder / name} is not opened" in message and "weights_only=True" in message
    assert not (tmp_path / "boom").exists()


def test_pickles_are_converted(tmp_path):
    """The command does it: several files, and tensors that share their memory."""
    torch = pytest.importorskip("torch")
    folder = tmp_path / "it's here"
    folder.mkdir()
    table = torch.arange(6.0).reshape(2, 3)
    torch.save({"words.weight": table, "decoder.weight": table}, folder / "pytorch_model-00001-of-00002.bin")
    torch.save({"x.weight": table.T, "h": table.bfloat16()}, folder / "pytorch_model-00002-of-00002.bin")
    command = outcome(folder).partition("alone: ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True)
    found = outcome(folder)
    table = table.numpy()
    assert found.pop("h").dtype == ml_dtypes.bfloat16
    assert same(found, {"words.weight": table, "decoder.weight": table, "x.weight": table.T})


def test_keras_and_nothing(tmp_path):
    """Keras' file is not taken for a pickle; an empty folder is told what was looked for."""
    with pytest.raises(FileNotFoundError, match=r"none of model\.safetensors, "):
        tensors.read_folder(tmp_path)
    (tmp_path / tensors.KERAS).touch()
    assert "from_tf=True" in outcome(tmp_path)

"""Files of named tensors: safetensors, also in several files with an index, and the msgpack of the former Flax classes.

Pickles are never opened: reading one runs whatever code its author put in.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import flax.serialization
import msgpack
import numpy as np
import safetensors
import safetensors.numpy

SAFETENSORS, INDEX, MSGPACK = "model.safetensors", "model.safetensors.index.json", "flax_model.msgpack"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "model.ckpt", "tf_model.h5")
_CONVERT = (
    "python -c \"from transformers import AutoModelForPreTraining as M; M.from_pretrained('{folder}')"
    ".save_pretrained('{folder}-safetensors')\""
)


def read_folder(folder: Path) -> tuple[dict[str, np.ndarray], Path]:
    """All tensors of a folder by name, and the file they are from.

    Raises FileNotFoundError for a folder without weights, or one that lacks a file of its index; ValueError for a
    pickle, for an index that points elsewhere, and for a file that is cut off or damaged.
    """
    if (folder / SAFETENSORS).exists():
        return read_safetensors(folder / SAFETENSORS), folder / SAFETENSORS
    if (folder / INDEX).exists():
        return _read_shards(folder), folder / INDEX
    if (folder / MSGPACK).exists():
        return read_msgpack(folder / MSGPACK), folder / MSGPACK
    for name in PICKLES:
        if (folder / name).exists():
            raise ValueError(
                f"{folder / name} is not opened: a pickle can run code of its author's. If you trust it, convert it "
                f"once with transformers: {_CONVERT.format(folder=folder)}"
            )
    raise FileNotFoundError(f"{folder} has no weights: none of {SAFETENSORS}, {INDEX}, {MSGPACK}")


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of one file. Raises ValueError naming it where it is cut off or damaged."""
    try:
        return safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{file} is cut off or damaged: {error}") from error


def write_safetensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one file, marked as PyTorch's layout, which `transformers` asks for."""
    safetensors.numpy.save_file(dict(tensors), file, metadata={"format": "pt"})


def read_msgpack(file: Path) -> dict[str, np.ndarray]:
    """The parameters of a removed Flax class under the names of its PyTorch counterpart, and in that layout.

    The tree `bert/encoder/layer/0/attention/self/query/kernel` is `bert.encoder.layer.0.attention.self.query.weight`,
    transposed; `scale` and `embedding` are `weight`, too. Raises ValueError naming a file that is cut off or damaged.
    """
    try:
        tree = flax.serialization.msgpack_restore(file.read_bytes())
    except (msgpack.exceptions.UnpackException, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{file} is cut off or damaged: {error}") from error
    tensors: dict[str, np.ndarray] = {}
    _flatten(tree.get("params", tree) if isinstance(tree, dict) else tree, (), tensors, file)
    return tensors


def _flatten(node, path: tuple[str, ...], tensors: dict[str, np.ndarray], file: Path) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            _flatten(value, (*path, key), tensors, file)
    elif isinstance(node, np.ndarray) and path:
        *parents, last = path
        value = node.T if last == "kernel" else node
        last = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(last, last)
        tensors[".".join([*parents, last])] = value
    else:
        raise ValueError(f"{file} is cut off or damaged: {'/'.join(path) or 'it'} is no array")


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    index = folder / INDEX
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is damaged: it has no weight_map of names to files ({error})") from error
    for name in files:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise ValueError(f"{index} points outside its folder, at {name!r}: not opened")
        if not (folder / name).exists():
            raise FileNotFoundError(f"{index} names {name}, which is not in {folder}: the download is incomplete")
    tensors: dict[str, np.ndarray] = {}
    for name in files:
        held = read_safetensors(folder / name)
        if absent := [tensor for tensor, place in places.items() if place == name and tensor not in held]:
            raise ValueError(f"{folder / name} lacks {', '.join(absent[:5])}, which {index} says is there")
        tensors |= held
    return tensors

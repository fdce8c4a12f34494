"""Files of named tensors: safetensors, also in several files with an index, and the msgpack of the former Flax classes.

Pickles are never opened: reading one runs whatever code its author put in.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import flax.serialization
import numpy as np
import safetensors
import safetensors.numpy

SAFETENSORS, INDEX, MSGPACK = "model.safetensors", "model.safetensors.index.json", "flax_model.msgpack"
FILES = (SAFETENSORS, INDEX, MSGPACK)
PICKLES = ("pytorch_model*.bin", "model.pt", "model.pth")
KERAS = "tf_model.h5"
# The tensors alone and all of them: a class of transformers would drop those that it has no use for, and fill in what
# it misses at random. Copies, since safetensors holds no two names of one memory.
_CONVERT = (
    "import glob, torch, safetensors.torch as s; "
    "parts = [torch.load(f, map_location='cpu', weights_only=True) for f in sorted(glob.glob('{pattern}'))]; "
    "s.save_file({{k: v.clone().contiguous() for part in parts for k, v in part.items()}}, "
    "'model.safetensors', {{'format': 'pt'}})"
)
# A clone of a repository without git-lfs has a line of text in the place of each large file.
_POINTER = b"version https://git-lfs.github.com/spec/"


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
    for pattern in PICKLES:
        if found := sorted(folder.glob(pattern)):
            raise ValueError(
                f"{found[0]} is not opened: it is a pickle, which can run code of its author's. Convert it once, by "
                f"PyTorch's reader of tensors alone: {convert_command(folder, pattern)}"
            )
    if (folder / KERAS).exists():
        raise ValueError(
            f"{folder / KERAS} is not opened: it is Keras' format. transformers 4 can read it, with from_tf=True, and "
            f"save it as {SAFETENSORS}"
        )
    raise FileNotFoundError(f"{folder} has no weights: none of {', '.join(FILES)}")


def convert_command(folder: str | Path, pattern: str = PICKLES[0]) -> str:
    """The command that writes the pickled PyTorch tensors in a folder to safetensors beside them."""
    return f'cd {shlex.quote(str(folder))} && python -c "{_CONVERT.format(pattern=pattern)}"'


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of one file. Raises ValueError naming it where it is cut off or damaged."""
    try:
        return safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, error) from error


def write_safetensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one file, marked as PyTorch's layout, which `transformers` asks for."""
    safetensors.numpy.save_file(dict(tensors), file, metadata={"format": "pt"})


def read_msgpack(file: Path) -> dict[str, np.ndarray]:
    """The parameters of a removed Flax class under the names of its PyTorch counterpart, and in that layout.

    The tree `bert/encoder/layer/0/attention/self/query/kernel` is `bert.encoder.layer.0.attention.self.query.weight`,
    transposed; `scale` and `embedding` are `weight`, too. Raises ValueError naming a file that is cut off or damaged.
    """
    content = file.read_bytes()
    try:
        tree = flax.serialization.msgpack_restore(content)
    except Exception as error:  # it checks nothing: damaged bytes raise whatever they run into, a SyntaxError even
        raise _damaged(file, error) from error
    tensors: dict[str, np.ndarray] = {}
    _flatten(tree.get("params", tree) if isinstance(tree, dict) else tree, (), tensors, file)
    return tensors


def _flatten(node, path: tuple[str, ...], tensors: dict[str, np.ndarray], file: Path) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            _flatten(value, (*path, str(key)), tensors, file)
    elif isinstance(node, np.ndarray) and path:
        *parents, last = path
        value = node.T if last == "kernel" else node
        last = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(last, last)
        if (name := ".".join([*parents, last])) in tensors:
            raise ValueError(f"{file} holds {name} twice, under two of the names that stand for it")
        tensors[name] = value
    else:
        raise ValueError(f"{file} is damaged, or of something else: {'/'.join(path) or 'it'} is no array")


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    index = folder / INDEX
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{index} is damaged: it has no weight_map of names to files ({error})") from error
    for name in files:
        # A plain name, not a path. The file may be a link, as all are in the hub's cache: that is the folder's doing.
        plain = isinstance(name, str) and re.fullmatch(r"[^/\\:\0]+\.safetensors", name)
        if not plain or len(name.encode("utf-8", "replace")) > 255:  # what file systems take
            raise ValueError(f"{index} points at {name!r}, which is no safetensors file of its folder: not opened")
        if not (folder / name).exists():
            raise FileNotFoundError(f"{index} names {name}, which is not in {folder}: the download is incomplete")
    tensors: dict[str, np.ndarray] = {}
    for name in files:
        held = read_safetensors(folder / name)
        if absent := [tensor for tensor, place in places.items() if place == name and tensor not in held]:
            raise ValueError(f"{folder / name} lacks {', '.join(absent[:5])}, which {index} says is there")
        if twice := sorted(set(held) & set(tensors)):
            raise ValueError(f"{folder / name} holds {', '.join(twice[:5])}, as does another file of {index}")
        tensors |= held
    return tensors


def _damaged(file: Path, error: Exception) -> ValueError:
    with open(file, "rb") as opened:
        pointer = opened.read(len(_POINTER)) == _POINTER
    if pointer:
        return ValueError(f"{file} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`")
    return ValueError(f"{file} is cut off or damaged, or of a kind that is not known: {error}")

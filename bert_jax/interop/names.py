"""The parameters by their three names: here, in Hugging Face's PyTorch state, and in Google's TF1 checkpoints.

What there is of them is in the tables of `members/`, in the words of `parameter.py`.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from bert_jax.interop.members import member_of
from bert_jax.interop.parameter import Parameter
from bert_jax.models.mpnet import BUCKETS
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.sop import Sop
from bert_jax.objectives.span import Span

Style = Literal["huggingface", "google"]


def parameters(encoder: nn.Module, objectives: Mapping[str, nn.Module]) -> Iterator[tuple[str, Parameter]]:
    """(top-level name, parameter) of an encoder and its heads.

    Raises ValueError for an encoder or a head that has no name elsewhere.
    """
    member = member_of(encoder)
    yield from (("encoder", parameter) for parameter in member.encoder_table(encoder))
    for name, objective in objectives.items():
        own = member.head_table(objective)
        fits = getattr(objective, "use_bias", member.mlm_bias) == member.mlm_bias
        if own is None or not fits or getattr(objective, "features", None) is not None:
            raise ValueError(f"objective {name!r} ({type(objective).__name__}) has no counterpart outside this project")
        yield from ((f"objectives_{name}", parameter) for parameter in own)


def sizes(encoder: nn.Module, classes: int = 0) -> dict[str, int]:
    """The length of each axis."""
    head = encoder.width // encoder.num_heads
    positions = encoder.max_length + member_of(encoder).spare_positions
    return {
        "V": encoder.vocab_size, "L": positions, "S": encoder.segment_types, "D": encoder.width,
        "E": getattr(encoder, "embedding_width", encoder.width), "U": encoder.width, "H": encoder.num_heads, "K": head,
        "F": encoder.mlp_width, "C": classes,
        "J": len(JOINED), "G": 2, "R": BUCKETS,
    }  # fmt: skip


def to_params(
    tensors: Mapping[str, np.ndarray], encoder: nn.Module, objectives: Mapping[str, nn.Module], style: Style
) -> tuple[dict, list[str]]:
    """Parameters here from tensors elsewhere, and the names of tensors that nothing took.

    Raises ValueError listing what is missing or has another shape than the configuration says.
    """
    params: dict = {}
    wrong: list[str] = []
    tensors = {**tensors, **member_of(encoder).implied(encoder)}
    used: set[str] = set()
    for top, parameter in parameters(encoder, objectives):
        name, axes = getattr(parameter, style)
        inner = parameter.axes.replace("N", "").replace("J", "" if _joined(name) else "J")
        size = sizes(encoder, _classes(objectives.get(top.removeprefix("objectives_"))))
        take = functools.partial(_take, tensors, axes, inner, {a: size[a] for a in inner}, used, wrong)
        _set(params, f"{top}/{parameter.path}", _gather(name, parameter.axes, encoder.layer_sets, take))
    if wrong:
        raise ValueError("tensors do not fit the configuration:\n  " + "\n  ".join(wrong))
    return params, sorted(set(tensors) - used)


def from_params(
    params: Mapping, encoder: nn.Module, objectives: Mapping[str, nn.Module], style: Style
) -> dict[str, np.ndarray]:
    """The inverse of `to_params`. Raises ValueError for a parameter that has no name there."""
    tensors = {}
    for top, parameter in parameters(encoder, objectives):
        name, axes = getattr(parameter, style)
        if not name:
            raise ValueError(f"{top}/{parameter.path} (an untied decoder) has no name in a {style} checkpoint")
        value = np.asarray(_get(params, f"{top}/{parameter.path}"), np.float32)
        for full, part, inner in _parts(name, parameter.axes, value):
            tensors[full] = np.ascontiguousarray(einops.rearrange(part, f"{_spaced(inner)} -> {_spaced(axes)}"))
    implied = member_of(encoder).implied(encoder)
    return {name: tensor for name, tensor in tensors.items() if name not in implied}


def layout(
    encoder: nn.Module, objectives: Mapping[str, nn.Module], style: Style
) -> Iterator[tuple[str, str, str, str]]:
    """(name there, axes there, path here, axes here) of every parameter: what a conversion does, as a table."""
    for top, parameter in parameters(encoder, objectives):
        name, axes = getattr(parameter, style)
        yield name, axes, f"{top}/{parameter.path}", parameter.axes


JOINED = ("query", "key", "value")  # {J} in a name; {j} is their first letters


def _joined(name: str) -> list[str]:
    """The names of the tensors that are one array here; empty where the name is of a single one."""
    if "{J}" not in name and "{j}" not in name:
        return []
    return [name.replace("{J}", joined).replace("{j}", joined[0]) for joined in JOINED]


def _take(tensors, axes: str, inner: str, size: dict[str, int], used: set[str], wrong: list[str], name: str):
    """One tensor with its axes in our order; what is wrong with it is noted, so that all faults come in one error."""
    used.add(name)
    shape = tuple(math.prod(1 if a == "1" else size[a] for a in group) for group in groups(axes))
    tensor = tensors.get(name)
    if tensor is None:
        wrong.append(f"{name} is missing, wanted {shape}")
    elif tensor.shape != shape:
        wrong.append(f"{name} has shape {tensor.shape}, wanted {shape}")
    elif not jnp.issubdtype(tensor.dtype, jnp.floating):  # numpy itself does not know that bfloat16 is
        wrong.append(f"{name} has dtype {tensor.dtype}, wanted floating point")
    elif not np.isfinite(tensor := tensor.astype(np.float32)).all():  # of a run that diverged, or damaged
        wrong.append(f"{name} holds {np.size(tensor) - np.isfinite(tensor).sum()} values that are not finite")
    else:
        return einops.rearrange(tensor, f"{_spaced(axes)} -> {_spaced(inner)}", **size)
    return np.zeros([size[a] for a in inner], np.float32)


def _gather(name: str, axes: str, layers: int, take: Callable[[str], np.ndarray]) -> np.ndarray:
    """Stacks what is several tensors elsewhere along N and J."""
    if "{N}" in name:
        return np.stack([_gather(name.replace("{N}", str(n)), axes[1:], layers, take) for n in range(layers)])
    if joined := _joined(name):
        return np.stack([take(own) for own in joined], axis=axes.index("J"))
    return take(name)


def _parts(name: str, axes: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray, str]]:
    """The inverse: (full name, array, its axes) of each tensor."""
    if "{N}" in name:
        for n, layer in enumerate(value):
            yield from _parts(name.replace("{N}", str(n)), axes[1:], layer)
    elif joined := _joined(name):
        inner = axes.replace("J", "")
        for j, own in enumerate(joined):
            yield own, np.take(value, j, axis=axes.index("J")), inner
    else:
        yield name, value, axes


def groups(axes: str) -> list[str]:
    """The axes of a tensor elsewhere, each with the letters it stands for: "D(H K)" gives D, HK."""
    return [(joined or single).replace(" ", "") for joined, single in re.findall(r"\((.*?)\)|(\w)", axes)]


def _spaced(axes: str) -> str:
    return " ".join(f"({' '.join(group)})" if len(group) > 1 else group for group in groups(axes))


def _classes(objective: nn.Module | None) -> int:
    return {Nsp: 2, Sop: 2, Span: 2, Choice: 1, Regress: 1}.get(type(objective), getattr(objective, "num_classes", 0))


def _set(tree: dict, path: str, value: np.ndarray) -> None:
    *parents, last = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def _get(tree: Mapping, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree

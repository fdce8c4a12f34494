"""The parameters by their three names: here, in Hugging Face's PyTorch state, and in Google's TF1 checkpoints.

Each tensor is written down once, with the order of its axes in each world, in the letters of `nn/`; brackets are axes
that are one there, as in einops. `{N}` runs over the layers and `{J}` over query, key and value, which are one array
here and a tensor each elsewhere.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from bert_jax.models.bert import Bert
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

Style = Literal["huggingface", "google"]


class Parameter(NamedTuple):
    """One parameter: its path and axes here, and (name, axes) elsewhere; a name is "" where that world has none."""

    path: str
    axes: str
    huggingface: tuple[str, str]
    google: tuple[str, str]


def _same(path: str, axes: str, huggingface: str, google: str) -> Parameter:
    inner = axes.removeprefix("N")
    return Parameter(path, axes, (huggingface, inner), (google, inner))


def _dense(path: str, axes: str, parameter: str, inputs: str, outputs: str) -> Iterator[Parameter]:
    """Kernel and bias of a projection: PyTorch stores [out, in], TensorFlow [in, out]."""
    google = parameter.replace(".", "/").replace("layer/{N}", "layer_{N}")
    yield Parameter(
        f"{path}/kernel", axes, (f"{parameter}.weight", f"{outputs}{inputs}"), (f"{google}/kernel", inputs + outputs)
    )
    bias = "".join(letter for letter in axes if letter not in inputs)
    yield Parameter(f"{path}/bias", bias, (f"{parameter}.bias", outputs), (f"{google}/bias", outputs))


def _norm(path: str, axes: str, parameter: str) -> Iterator[Parameter]:
    google = parameter.replace(".", "/").replace("layer/{N}", "layer_{N}")
    yield _same(f"{path}/scale", axes, f"{parameter}.weight", f"{google}/gamma")
    yield _same(f"{path}/bias", axes, f"{parameter}.bias", f"{google}/beta")


def _output(huggingface: str, google: str) -> tuple[Parameter, ...]:
    """A head's projection of [D] to [C]; TF1's fine-tuning stores it as PyTorch does (run_classifier.py:596-600)."""
    return (
        Parameter("output/kernel", "DC", (f"{huggingface}.weight", "CD"), (f"{google}output_weights", "CD")),
        Parameter("output/bias", "C", (f"{huggingface}.bias", "C"), (f"{google}output_bias", "C")),
    )


_LAYER = "bert.encoder.layer.{N}"
EMBEDDINGS = (
    *(
        _same(f"embeddings/{here}/table", axes, f"bert.embeddings.{there}.weight", f"bert/embeddings/{there}")
        for here, axes, there in (
            ("words", "VD", "word_embeddings"),
            ("positions", "LD", "position_embeddings"),
            ("segments", "SD", "token_type_embeddings"),
        )
    ),
    *_norm("embeddings/norm", "D", "bert.embeddings.LayerNorm"),
)
LAYERS = (
    *_dense("layers/attention/qkv", "NDJHK", f"{_LAYER}.attention.self.{{J}}", "D", "(H K)"),
    *_dense("layers/attention/out", "NHKD", f"{_LAYER}.attention.output.dense", "(H K)", "D"),
    *_norm("layers/attention_norm", "ND", f"{_LAYER}.attention.output.LayerNorm"),
    *_dense("layers/mlp/widen", "NDF", f"{_LAYER}.intermediate.dense", "D", "F"),
    *_dense("layers/mlp/narrow", "NDF", f"{_LAYER}.output.dense", "F", "D"),
    *_norm("layers/mlp_norm", "ND", f"{_LAYER}.output.LayerNorm"),
)
POOLER = tuple(_dense("pooler", "DE", "bert.pooler.dense", "D", "E"))
MLM = (
    *_dense("transform", "DE", "cls.predictions.transform.dense", "D", "E"),
    *_norm("norm", "E", "cls.predictions.transform.LayerNorm"),
    _same("bias", "V", "cls.predictions.bias", "cls/predictions/output_bias"),
)
DECODER = (Parameter("decoder", "VE", ("cls.predictions.decoder.weight", "VE"), ("", "VE")),)
HEADS: dict[type, tuple[Parameter, ...]] = {
    Mlm: MLM,
    Nsp: _output("cls.seq_relationship", "cls/seq_relationship/"),
    Classify: _output("classifier", ""),
    Regress: _output("classifier", ""),
    MultiLabel: _output("classifier", ""),
    Tag: _output("classifier", ""),
    Span: _output("qa_outputs", "cls/squad/"),
    Choice: _output("classifier", ""),
}


def parameters(encoder: Bert, objectives: Mapping[str, nn.Module]) -> Iterator[tuple[str, Parameter]]:
    """(top-level name, parameter) of an encoder and its heads.

    Raises ValueError for a head that has no name elsewhere.
    """
    yield from (("encoder", parameter) for parameter in (*EMBEDDINGS, *LAYERS, *(POOLER if encoder.pooler else ())))
    for name, objective in objectives.items():
        if type(objective) not in HEADS or getattr(objective, "features", None) is not None:
            raise ValueError(f"objective {name!r} ({type(objective).__name__}) has no counterpart outside this project")
        own = HEADS[type(objective)] + (DECODER if isinstance(objective, Mlm) and not objective.tied else ())
        yield from ((f"objectives_{name}", parameter) for parameter in own)


def sizes(encoder: Bert, classes: int = 0) -> dict[str, int]:
    """The length of each axis."""
    head = encoder.width // encoder.num_heads
    return {
        "V": encoder.vocab_size, "L": encoder.max_length, "S": encoder.segment_types, "D": encoder.width,
        "E": encoder.width, "H": encoder.num_heads, "K": head, "F": encoder.mlp_width, "C": classes,
    }  # fmt: skip


def to_params(
    tensors: Mapping[str, np.ndarray], encoder: Bert, objectives: Mapping[str, nn.Module], style: Style
) -> tuple[dict, list[str]]:
    """Parameters here from tensors elsewhere, and the names of tensors that nothing took.

    Raises ValueError listing what is missing or has another shape than the configuration says.
    """
    params: dict = {}
    wrong: list[str] = []
    used: set[str] = set()
    for top, parameter in parameters(encoder, objectives):
        name, axes = getattr(parameter, style)
        inner = parameter.axes.replace("N", "").replace("J", "")
        size = sizes(encoder, _classes(objectives.get(top.removeprefix("objectives_"))))
        take = functools.partial(_take, tensors, axes, inner, {a: size[a] for a in inner}, used, wrong)
        _set(params, f"{top}/{parameter.path}", _gather(name, parameter.axes, encoder.num_layers, take))
    if wrong:
        raise ValueError("tensors do not fit the configuration:\n  " + "\n  ".join(wrong))
    return params, sorted(set(tensors) - used)


def from_params(
    params: Mapping, encoder: Bert, objectives: Mapping[str, nn.Module], style: Style
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
    return tensors


def layout(encoder: Bert, objectives: Mapping[str, nn.Module], style: Style) -> Iterator[tuple[str, str, str, str]]:
    """(name there, axes there, path here, axes here) of every parameter: what a conversion does, as a table."""
    for top, parameter in parameters(encoder, objectives):
        name, axes = getattr(parameter, style)
        yield name, axes, f"{top}/{parameter.path}", parameter.axes


JOINED = ("query", "key", "value")


def _take(tensors, axes: str, inner: str, size: dict[str, int], used: set[str], wrong: list[str], name: str):
    """One tensor with its axes in our order; what is wrong with it is noted, so that all faults come in one error."""
    used.add(name)
    shape = tuple(math.prod(size[a] for a in group) for group in groups(axes))
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
    if "{J}" in name:
        return np.stack([take(name.replace("{J}", joined)) for joined in JOINED], axis=axes.index("J"))
    return take(name)


def _parts(name: str, axes: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray, str]]:
    """The inverse: (full name, array, its axes) of each tensor."""
    if "{N}" in name:
        for n, layer in enumerate(value):
            yield from _parts(name.replace("{N}", str(n)), axes[1:], layer)
    elif "{J}" in name:
        inner = axes.replace("J", "")
        for j, joined in enumerate(JOINED):
            yield name.replace("{J}", joined), np.take(value, j, axis=axes.index("J")), inner
    else:
        yield name, value, axes


def groups(axes: str) -> list[str]:
    """The axes of a tensor elsewhere, each with the letters it stands for: "D(H K)" gives D, HK."""
    return [(joined or single).replace(" ", "") for joined, single in re.findall(r"\((.*?)\)|(\w)", axes)]


def _spaced(axes: str) -> str:
    return " ".join(f"({' '.join(group)})" if len(group) > 1 else group for group in groups(axes))


def _classes(objective: nn.Module | None) -> int:
    return {Nsp: 2, Span: 2, Choice: 1, Regress: 1}.get(type(objective), getattr(objective, "num_classes", 0))


def _set(tree: dict, path: str, value: np.ndarray) -> None:
    *parents, last = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def _get(tree: Mapping, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree

"""What a table of names is made of; `names.py` reads it, `members/` has one for each encoder.

Each tensor is written down once, with the order of its axes in each world, in the letters of `nn/`; brackets are axes
that are one there, as in einops, and 1 is an axis of that length. `{N}` runs over the layers and `{J}` over query, key
and value, which are one array here and a tensor each elsewhere; where theirs are one tensor, too, J is an axis of it as
any other.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Parameter(NamedTuple):
    """One parameter: its path and axes here, and (name, axes) elsewhere; a name is "" where that world has none."""

    path: str
    axes: str
    huggingface: tuple[str, str]
    google: tuple[str, str]


def same(path: str, axes: str, huggingface: str, google: str = "") -> Parameter:
    """One that has the same axes everywhere."""
    inner = axes.removeprefix("N")
    return Parameter(path, axes, (huggingface, inner), (google, inner))


def dense(path: str, axes: str, parameter: str, inputs: str, outputs: str) -> Iterator[Parameter]:
    """Kernel and bias of a projection: PyTorch stores [out, in], TensorFlow [in, out]."""
    google = parameter.replace(".", "/").replace("layer/{N}", "layer_{N}")
    yield Parameter(
        f"{path}/kernel", axes, (f"{parameter}.weight", f"{outputs}{inputs}"), (f"{google}/kernel", inputs + outputs)
    )
    bias = "".join(letter for letter in axes if letter not in inputs)
    yield Parameter(f"{path}/bias", bias, (f"{parameter}.bias", outputs), (f"{google}/bias", outputs))


def norm(path: str, axes: str, parameter: str) -> Iterator[Parameter]:
    """Scale and bias of a layer norm."""
    google = parameter.replace(".", "/").replace("layer/{N}", "layer_{N}")
    yield same(f"{path}/scale", axes, f"{parameter}.weight", f"{google}/gamma")
    yield same(f"{path}/bias", axes, f"{parameter}.bias", f"{google}/beta")


def output(huggingface: str, google: str) -> tuple[Parameter, ...]:
    """A head's projection of [D] to [C]; TF1's fine-tuning stores it as PyTorch does (run_classifier.py:596-600)."""
    return (
        Parameter("output/kernel", "DC", (f"{huggingface}.weight", "CD"), (f"{google}output_weights", "CD")),
        Parameter("output/bias", "C", (f"{huggingface}.bias", "C"), (f"{google}output_bias", "C")),
    )

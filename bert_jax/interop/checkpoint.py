"""What a foreign folder holds, opened: the model, its parameters, and what is to be said about them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from bert_jax.interop import names
from bert_jax.text.tokenizer import Tokenizer


class ForeignCheckpoint(NamedTuple):
    """A checkpoint read from, or to be written to, another project's layout.

    Attributes:
        encoder: with all sizes filled in.
        objectives: the heads it carries, by name; the name is also the prefix of their parameters.
        params: float32 numpy arrays, `encoder` and `objectives_<name>`.
        notes: what a user should know: parts that are missing, tensors that were not used.
        tokenizer: which members of the family can differ in alone; where one is read, it is opened by itself.
    """

    encoder: nn.Module
    objectives: dict[str, nn.Module]
    params: dict[str, Any]
    notes: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None


def assemble(
    state: Mapping[str, np.ndarray],
    encoder: nn.Module,
    objectives: dict[str, nn.Module],
    style: names.Style,
    source: Path,
    notes: Sequence[str] = (),
) -> ForeignCheckpoint:
    """The checkpoint that tensors of one style are, with notes on what is missing and what was not used.

    Raises ValueError naming the source where they do not fit.
    """
    try:
        params, unused = names.to_params(state, encoder, objectives, style)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    notes = list(notes)
    if not getattr(encoder, "pooler", True):
        notes.append("there is no pooler: `pooled` and the heads that need it are not available")
    if not objectives:
        notes.append("there is no head: a new one starts from random weights")
    notes += [f"tensor {name} {state[name].shape} is not used" for name in unused]
    return ForeignCheckpoint(encoder, objectives, params, tuple(notes))

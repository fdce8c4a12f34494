"""What a foreign folder holds, opened: the model, its parameters, and what is to be said about them."""

from typing import Any, NamedTuple

import flax.linen as nn

from bert_jax.models.bert import Bert


class ForeignCheckpoint(NamedTuple):
    """A checkpoint read from, or to be written to, another project's layout.

    Attributes:
        encoder: with all sizes filled in.
        objectives: the heads it carries, by name; the name is also the prefix of their parameters.
        params: float32 numpy arrays, `encoder` and `objectives_<name>`.
        notes: what a user should know: parts that are missing, tensors that were not used.
    """

    encoder: Bert
    objectives: dict[str, nn.Module]
    params: dict[str, Any]
    notes: tuple[str, ...] = ()

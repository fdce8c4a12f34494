"""BERT's encoder (Devlin et al. 2018, arXiv 1810.04805; google-research/bert `modeling.py`)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import SIZES, Tower, embeddings_of, encode, layer_of, sized


class Bert(Tower):
    """Embeddings, a tower of post-norm layers, and a pooler over `[CLS]`; the defaults are BERT-base.

    Attributes:
        segment_types: S (the original's code defaults to 16, its released models have 2).
        pooler: whether there is one.
        causal: a token sees itself and those before it only: the left-to-right model of the paper's ablation (section
            5.1), in fine-tuning, too. `[CLS]` then sees nothing but itself, so the pooler is over the last token of a
            row that is no padding, its closing `[SEP]`, which sees them all (as Radford et al. 2018, section 3.2, read
            a left-to-right model). Under `sequence_ids` that is the last token of the last sequence.

    The others are those of `models.tower.Tower`.
    """

    segment_types: int = 2
    pooler: bool = True
    causal: bool = False

    @staticmethod
    def from_older(fields: Mapping[str, Any]) -> dict[str, Any]:
        """Of a record from before `remat` had names, when it was yes or no."""
        names = {True: "full", False: "none"}
        return {key: names.get(value, value) if key == "remat" else value for key, value in fields.items()}

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than the position table."""
        embeddings, layer = embeddings_of(self, self.segment_types), layer_of(self, self.causal)
        return encode(self, embeddings, layer, batch, train, pooler=self.pooler, causal=self.causal)


def bert(size: str, **overrides) -> Bert:
    """The encoder of a published size: `bert("mini", dropout=0.0)`. Raises KeyError for an unknown name."""
    return Bert(**sized(SIZES, size) | overrides)

"""ALBERT's encoder (Lan et al. 2019, arXiv 1909.11942; google-research/albert `modeling.py`): BERT's, with few
parameters."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import Tower, embeddings_of, encode, layer_of, sized


class Albert(Tower):
    """BERT's tower with narrow tables, which are projected, and one layer that is applied again and again (section
    3.1); the defaults are ALBERT-base, version 2.

    What speaks of layers in training, such as `layer_decay`, `frozen_layers` and `reinitialised_layers`, speaks of
    those with parameters of their own: `num_groups`, and not `num_layers`.

    Attributes:
        embedding_width: E, of the tables of tokens, positions and segments, and of the masked LM's transform. A
            projection to the width follows, also where that is the same (the original has none there).
        num_groups: sets of parameters, each of which as many layers in a row use; 1 shares one among all of them.
        dropout, attention_dropout: none, as in the released models of version 2 (those of version 1 have 0.1, but for
            xxlarge).
        segment_types: S.
        pooler: whether there is one, over `[CLS]`.

    The others are those of `models.tower.Tower`.
    """

    dropout: float = 0.0
    attention_dropout: float = 0.0
    embedding_width: int = 128
    num_groups: int = 1
    segment_types: int = 2
    pooler: bool = True

    @property
    def layer_sets(self) -> int:
        """`num_groups`. Raises ValueError where the layers do not go into them evenly."""
        if self.num_layers % self.num_groups:
            raise ValueError(f"num_layers {self.num_layers} is not a multiple of num_groups {self.num_groups}")
        return self.num_groups

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than the position table, and for
        layers that do not go into the groups evenly."""
        embeddings = embeddings_of(self, self.segment_types, table_width=self.embedding_width)
        return encode(self, embeddings, layer_of(self), batch, train, pooler=self.pooler)


# name: (layers, width). Base to xxlarge: Lan et al. 2019, table 1. There are no smaller ones in the paper: the small
# sizes are BERT's (`models.tower.SIZES`).
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
    "xlarge": (24, 2048),
    "xxlarge": (12, 4096),
}
# Where the released model has others than width / 64 (section 3.1): its albert_config.json.
HEADS = {"xlarge": {"num_heads": 16}}


def albert(size: str, **overrides) -> Albert:
    """The encoder of a size: `albert("base", dropout=0.1)`. Raises KeyError for an unknown name."""
    return Albert(**sized(SIZES, size) | HEADS.get(size, {}) | overrides)

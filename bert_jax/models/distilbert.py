"""DistilBERT's encoder (Sanh et al. 2019, arXiv 1910.01108): BERT's with half the layers, no segments, no pooler."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import Tower, embeddings_of, encode, layer_of, sized
from bert_jax.nn.mlp import Activation


class DistilBert(Tower):
    """BERT's tower over embeddings of tokens and positions; the defaults are DistilBERT-base (section 3).

    Segments of a batch are not looked at.

    Attributes:
        segment_types: 0; nothing else makes sense.
        activation: the exact GELU, as the released model has.

    The others are those of `models.tower.Tower`.
    """

    num_layers: int = 6
    activation: Activation = "gelu"
    segment_types: int = 0

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than the position table."""
        batch = {name: batch[name] for name in batch if name != "segments"}
        return encode(self, embeddings_of(self), layer_of(self), batch, train)


# name: (layers, width) of the student. Base: Sanh et al. 2019, section 3; the others halve BERT's small sizes
# (`models.tower.SIZES`).
SIZES = {"mini": (2, 256), "small": (2, 512), "medium": (4, 512), "base": (6, 768), "large": (12, 1024)}


def distilbert(size: str, **overrides) -> DistilBert:
    """The encoder of a size: `distilbert("base", dropout=0.0)`. Raises KeyError for an unknown name."""
    return DistilBert(**sized(SIZES, size) | overrides)

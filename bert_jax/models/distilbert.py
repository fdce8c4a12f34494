"""DistilBERT's encoder (Sanh et al. 2019, arXiv 1910.01108): BERT's with half the layers, no segments, no pooler."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array

from bert_jax.models.bert import Embeddings, encode
from bert_jax.models.encoded import Encoded
from bert_jax.nn.attention import AttentionKind
from bert_jax.nn.dot import ComputeDtype
from bert_jax.nn.dropout import DropoutBits
from bert_jax.nn.linear import INIT_STDDEV
from bert_jax.nn.mlp import Activation
from bert_jax.nn.stack import Remat


class DistilBert(nn.Module):
    """BERT's tower over embeddings of tokens and positions; the defaults are DistilBERT-base (section 3).

    Segments of a batch are not looked at.

    Attributes:
        segment_types: 0; nothing else makes sense.
        activation: the exact GELU, as the released model has.

    The others are those of `models.bert.Bert`.
    """

    vocab_size: int = 0
    num_layers: int = 6
    width: int = 768
    num_heads: int = 12
    mlp_width: int = 3072
    max_length: int = 512
    segment_types: int = 0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-12
    init_stddev: float = INIT_STDDEV
    attention: AttentionKind = "plain"
    dropout_bits: DropoutBits = "hash"
    scan: bool = False
    remat: Remat = "none"
    dtype: ComputeDtype = "auto"

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch, which is as `Bert` takes it, and raises as it does."""
        embeddings = Embeddings(
            self.vocab_size,
            self.width,
            self.max_length,
            self.segment_types,
            self.dropout,
            self.norm_epsilon,
            self.init_stddev,
            self.dropout_bits,
            name="embeddings",
        )
        return encode(self, embeddings, {name: batch[name] for name in batch if name != "segments"}, train)


# name: (layers, width) of the student. Base: Sanh et al. 2019, section 3; the others halve BERT's small sizes
# (`models.bert.SIZES`).
SIZES = {"mini": (2, 256), "small": (2, 512), "medium": (4, 512), "base": (6, 768), "large": (12, 1024)}


def distilbert(size: str, **overrides) -> DistilBert:
    """The encoder of a size: `distilbert("base", dropout=0.0)`. Raises KeyError for an unknown name."""
    num_layers, width = SIZES[size]
    sizes = {"num_layers": num_layers, "width": width, "num_heads": width // 64, "mlp_width": 4 * width}
    return DistilBert(**sizes | overrides)

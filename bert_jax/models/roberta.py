"""RoBERTa's encoder: BERT's, without segments (Liu et al. 2019, arXiv 1907.11692; fairseq `models/roberta`)."""

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

# The first token's row of the position table: fairseq counts from behind the id of padding, which is 1
# (`utils.make_positions`). Rows 0 and 1 are of no token; they are kept, since they are in every checkpoint.
FIRST_POSITION = 2


class Roberta(nn.Module):
    """BERT's tower over embeddings of tokens and positions; the defaults are RoBERTa-base.

    The released models have one type of segment, whose row is added to every token, and those of a batch are not looked
    at. Positions are those of the row, also where padding is on its left (there `transformers` counts from the first
    token).

    Attributes:
        max_length: the longest input; the position table has `FIRST_POSITION` rows more.
        segment_types: with more than 1, segments are as in BERT.
        activation: the exact GELU.
        pooler: none in pre-training and fine-tuning, whose heads have a hidden layer of their own; `transformers` makes
            one in `RobertaModel` and for multiple choice.

    The others are those of `models.bert.Bert`.
    """

    vocab_size: int = 0
    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_width: int = 3072
    max_length: int = 512
    segment_types: int = 1
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-5
    init_stddev: float = INIT_STDDEV
    pooler: bool = False
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
            first_position=FIRST_POSITION,
            name="embeddings",
        )
        if self.segment_types == 1:
            batch = {name: batch[name] for name in batch if name != "segments"}
        return encode(self, embeddings, batch, train)


# name: (layers, width). Liu et al. 2019, section 3.1 and table 9 (appendix D). Heads are width / 64, the feed-forward
# width is 4 x width. There are no smaller ones in the paper: the small sizes are BERT's (`models.bert.SIZES`).
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


def roberta(size: str, **overrides) -> Roberta:
    """The encoder of a size: `roberta("base", dropout=0.0)`. Raises KeyError for an unknown name."""
    num_layers, width = SIZES[size]
    sizes = {"num_layers": num_layers, "width": width, "num_heads": width // 64, "mlp_width": 4 * width}
    return Roberta(**sizes | overrides)

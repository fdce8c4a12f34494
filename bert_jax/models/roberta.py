"""RoBERTa's encoder: BERT's, without segments (Liu et al. 2019, arXiv 1907.11692; fairseq `models/roberta`)."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import SIZES, Tower, embeddings_of, encode, layer_of, sized
from bert_jax.nn.mlp import Activation

# The first token's row of the position table: fairseq counts from behind the id of padding, which is 1
# (`utils.make_positions`). Rows 0 and 1 are of no token; they are kept, since they are in every checkpoint.
FIRST_POSITION = 2


class Roberta(Tower):
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

    The others are those of `models.tower.Tower`.
    """

    activation: Activation = "gelu"
    norm_epsilon: float = 1e-5
    segment_types: int = 1
    pooler: bool = False

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than the position table."""
        if self.segment_types == 1:
            batch = {name: batch[name] for name in batch if name != "segments"}
        embeddings = embeddings_of(self, self.segment_types, FIRST_POSITION)
        return encode(self, embeddings, layer_of(self), batch, train, pooler=self.pooler)


# Base and large are BERT's sizes: Liu et al. 2019, section 3.1 and table 9 (appendix D). The paper has no smaller ones.
def roberta(size: str, **overrides) -> Roberta:
    """The encoder of a size: `roberta("base", dropout=0.0)`. Raises KeyError for an unknown name."""
    return Roberta(**sized(SIZES, size) | overrides)

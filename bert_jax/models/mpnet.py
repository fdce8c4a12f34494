"""MPNet's encoder: BERT's, with a bias of relative positions in its attention (Song et al. 2020, arXiv 2004.09297).

How it is pre-trained, with two streams, is in `learners.mpnet`. The code followed is microsoft/MPNet, `pretraining/
fairseq/modules/transformer_sentence_encoder.py` and `models/masked_permutation_net.py`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from bert_jax.models.encoded import Encoded
from bert_jax.models.roberta import FIRST_POSITION
from bert_jax.models.tower import SIZES, Tower, embeddings_of, encode, layer_of, sized
from bert_jax.nn.linear import Table
from bert_jax.nn.mlp import Activation

# `relative_position_bucket`; the distance is in no configuration, and `transformers` knows no other number of buckets.
BUCKETS, MAX_DISTANCE = 32, 128


class Permuted(NamedTuple):
    """What is predicted of a batch, in the order of the permutation.

    Attributes:
        positions: of each predicted token, in its row.
        shown: the token that stands in for it while it is not known, most often the mask.
        there: False in what only fills a row up.
    """

    positions: Int[Array, "B P"]
    shown: Int[Array, "B P"]
    there: Bool[Array, "B P"]


class Mpnet(Tower):
    """BERT's tower over embeddings of tokens and positions; the defaults are MPNet-base.

    To the scores of every layer, one table for all of them, a number of each head is added that depends on how far the
    key is from the query, and on which side (section 3). Segments of a batch are not looked at. Positions are those
    of the row, also where padding is on its left (there `transformers` counts from the first token).

    Attributes:
        max_length: the longest input; the position table has `roberta.FIRST_POSITION` rows more.
        activation: the exact GELU.
        attention: `cudnn` is refused, since it does not learn such a table.
        segment_types: 0; nothing else makes sense.
        pooler: none in pre-training and fine-tuning, whose heads have a hidden layer of their own; `transformers` makes
            one in `MPNetModel` and for multiple choice.

    The others are those of `models.tower.Tower`.
    """

    activation: Activation = "gelu"
    norm_epsilon: float = 1e-5
    segment_types: int = 0
    pooler: bool = False

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False, permuted: Permuted | None = None) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than the position table, and with
        `permuted` for others than right-padded ones.

        permuted: what is predicted in right-padded rows. `intermediates` then have `predicted` [B, P, D], the query
            stream: of each predicted token what is made of all that is given and of those predicted before it, and in
            place of itself and of those after it of what stands in for them (section 2). `hidden` is the content
            stream, of all tokens as they are.
        """
        batch = {name: batch[name] for name in batch if name != "segments"}
        embeddings, layer = embeddings_of(self, first_position=FIRST_POSITION), layer_of(self)
        # Named as what embeddings are: it is trained at their rate, and frozen with them.
        table = Table("RH", (BUCKETS, self.num_heads), self.init_stddev, name="embeddings_relative")

        def bias(rows):
            positions = rows.get("positions", jnp.arange(rows["tokens"].shape[1])[None])
            return jnp.moveaxis(table(buckets(positions)), -1, 1)

        if permuted is None:
            return encode(self, embeddings, layer, batch, train, pooler=self.pooler, context=lambda rows: (bias(rows),))
        if named := {"sequence_ids", "positions", "packing"} & set(batch):
            raise ValueError(f"two streams are of right-padded rows (lengths), and the batch has {', '.join(named)}")
        if batch["tokens"].shape[1] > self.max_length:
            raise ValueError(f"rows of {batch['tokens'].shape[1]} tokens, but max_length is {self.max_length}")
        rows, visible = _streams(batch, permuted, self.max_length)

        def hiding(rows):
            return (jnp.where(visible[:, None], bias(rows), jnp.finfo(jnp.float32).min),)

        encoded = encode(self, embeddings, layer, rows, train, pooler=self.pooler, context=hiding)
        length, count = batch["tokens"].shape[1], permuted.positions.shape[1]
        inner = encoded.intermediates
        return encoded._replace(
            hidden=encoded.hidden[:, :length],
            intermediates={
                "embeddings": inner["embeddings"][:, :length],
                "layers": inner["layers"][:, :, :length],
                "predicted": encoded.hidden[:, length + count :],
            },
            lengths=batch.get("lengths"),
        )


def buckets(positions: Int[Array, "B L"]) -> Int[Array, "B L L"]:
    """The bucket of each query's distance to each key (`relative_position_bucket`, T5's).

    Half of them are of keys behind the query. Of either half the first half is of one distance each, from 0; the others
    grow with the logarithm of the distance, and the last is also of all from `MAX_DISTANCE` on.
    """
    half, exact = BUCKETS // 2, BUCKETS // 4
    distances = np.arange(MAX_DISTANCE + 1)
    # In float32, as there: the borders of buckets depend on the rounding.
    share = np.log(np.maximum(distances, exact).astype(np.float32) / exact) / np.float32(math.log(MAX_DISTANCE / exact))
    far = np.minimum(exact + (share * (half - exact)).astype(np.int32), half - 1)
    of_distance = jnp.asarray(np.where(distances < exact, distances, far), jnp.int32)
    apart = positions[:, None, :] - positions[:, :, None]
    return of_distance[jnp.minimum(jnp.abs(apart), MAX_DISTANCE)] + half * (apart > 0)


def _streams(
    batch: Mapping[str, Array], permuted: Permuted, max_length: int
) -> tuple[dict[str, Array], Bool[Array, "B T T"]]:
    """Rows of all tokens, of those that stand in, and of the query stream, T = L + 2 P in all; and which keys each
    query sees (`make_query_and_content_mask`).

    The streams share all parameters, and nobody sees the query stream: so it is some more tokens of the row.
    """
    tokens, (positions, shown, there) = batch["tokens"], permuted
    (rows, length), count = tokens.shape, positions.shape[1]
    column = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    number = jnp.broadcast_to(jnp.arange(count), positions.shape)
    # From 1 for what is predicted, in the order of the permutation; 0 for what is given.
    order = jnp.zeros_like(tokens).at[jnp.arange(rows)[:, None], positions].max(jnp.where(there, number + 1, 0))
    # How many of those predicted each query sees as they are: a token itself and those before it, what stands in none.
    known = jnp.concatenate([order, jnp.zeros_like(number), number], axis=1)[:, :, None]
    real = jnp.arange(length) < batch["lengths"][:, None] if "lengths" in batch else jnp.ones(tokens.shape, bool)
    visible = [
        real[:, None] & (order[:, None] <= known),
        there[:, None] & (number[:, None] >= known),
        jnp.zeros((rows, length + 2 * count, count), bool),
    ]
    row = batch.get("row", jnp.arange(rows))[:, None].astype(jnp.uint32)
    place = jnp.concatenate([column, max_length + number, 2 * max_length + number], axis=1)
    index: UInt32[Array, "B T"] = row * jnp.uint32(3 * max_length) + place.astype(jnp.uint32)
    return {
        "tokens": jnp.concatenate([tokens, shown, shown], axis=1),
        "positions": jnp.concatenate([column, positions, positions], axis=1),
        "token_index": index,
    } | {name: batch[name] for name in ("row",) if name in batch}, jnp.concatenate(visible, axis=-1)


# Base is BERT's size, Song et al. 2020, section 3, and the one that is released; large is that of
# `mpnet_large_architecture`. There are no others in the paper.
def mpnet(size: str, **overrides) -> Mpnet:
    """The encoder of a size: `mpnet("base", dropout=0.0)`. Raises KeyError for an unknown name."""
    return Mpnet(**sized(SIZES, size) | overrides)

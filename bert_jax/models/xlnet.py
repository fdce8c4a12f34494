"""XLNet's encoder (Yang et al. 2019, arXiv 1906.08237; zihangdai/xlnet `modeling.py`, `transformer_xl`)."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import SIZES, Tower, encode, sized
from bert_jax.nn.dot import ComputeDtype
from bert_jax.nn.dropout import Dropout, DropoutBits, Places
from bert_jax.nn.linear import Linear, Table, kernel_init
from bert_jax.nn.mlp import ACTIVATIONS, Activation
from bert_jax.nn.norm import LayerNorm
from bert_jax.nn.relative_attention import RelativeAttention, distances, sinusoids


class Xlnet(Tower):
    """BERT's post-norm tower over embeddings of tokens alone, with the relative attention of Transformer-XL; the
    defaults are XLNet-base.

    A token knows of another how many columns it is away, and whether their segments are the same. So sequences that
    share a row must each be in one piece, as packing has them. There is no pooler: a head over texts reads the last
    token, where XLNet has its `[CLS]` (`Classify(hidden="last_tanh")`). As everywhere here, weights are drawn from a
    normal that is cut at two deviations; the original's is not cut.

    Not here: the memory of an earlier segment's hidden states (section 2.4), and with it rows that go on where others
    ended; and rows read backwards (`bi_data`). Dropout on the encodings of distances is the same in all rows of a step
    (Transformer-XL's; in XLNet's each row has its own), so that it does not depend on how rows are packed.

    Attributes:
        max_length: the longest input; there is no table of positions.
        attention: `plain`, the only one.
        segment_types: how many segments a batch can name, those of the original (classifier_utils.py, `SEG_ID_A` ...
            `SEG_ID_PAD`); they are compared and have no table.

    The others are those of `models.tower.Tower`.
    """

    segment_types: int = 5
    permutes = True  # what objectives ask of an encoder; no field, since it could be nothing else

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`).

        A batch with `order` [B, L] and `asked` [B, P] is one of right-padded rows to be predicted (section 2.3).
        `order` is 0 for tokens that are given; of the others no two in a row have the same, and each sees those up to
        its own. `asked` are the places of a second stream, which begins as the embedding of the mask, and sees what is
        before the place in the order: `intermediates["asked"]` [B, P, D] knows where it stands and not what stands
        there. It is computed unpacked.

        Raises ValueError for rows longer than `max_length`, for an `attention` other than `plain`, and for an order in
        rows of several sequences.
        """
        if self.attention != "plain":
            raise ValueError(f"attention is {self.attention!r}, and relative attention is computed by 'plain' alone")
        embed = _Embeddings(
            self.vocab_size, self.width, self.dropout, self.init_stddev, self.dropout_bits, name="embeddings"
        )
        layer = _Layer(
            self.num_heads,
            self.mlp_width,
            self.dropout,
            self.attention_dropout,
            self.activation,
            self.norm_epsilon,
            self.init_stddev,
            self.dtype,
            self.dropout_bits,
            name="layers",
        )
        drop = Dropout(self.dropout, self.dropout_bits, name="dropout")

        def context(rows):
            apart = distances(rows["tokens"].shape[1])
            places = Places.of_tokens(apart.astype(jnp.uint32)[None], self.width)
            relative = drop(sinusoids(apart, self.width)[None], train, places)[0]
            if "order" in rows:
                return relative, _same_segment(rows), _visible(rows), rows["asked"]
            return relative, _same_segment(rows)

        rows = self._two_streams(batch) if "order" in batch else batch
        encoded = encode(self, embed, layer, rows, train, context=context)
        if "order" not in batch:
            hidden = drop(encoded.hidden, train, Places.of_array(encoded.hidden.shape, encoded.row))
            return encoded._replace(hidden=hidden)
        hidden = drop(encoded.hidden, train, Places.of_tokens(rows["token_index"], self.width))
        length, inner = batch["tokens"].shape[1], encoded.intermediates
        inner = {"embeddings": inner["embeddings"][:, :length], "layers": inner["layers"][:, :, :length]}
        return encoded._replace(hidden=hidden[:, :length], intermediates=inner | {"asked": hidden[:, length:]})

    @nn.nowrap
    def _two_streams(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """The batch unpacked, with an index of the tokens of both streams."""
        if "sequence_ids" in batch:
            raise ValueError("an order is of right-padded rows (lengths), and not of several sequences in a row")
        (count, length), most = batch["tokens"].shape, self.max_length
        if length > most:
            raise ValueError(f"rows of {length} tokens, and max_length is {most}")
        columns = jnp.concatenate([jnp.arange(length), most + jnp.arange(batch["asked"].shape[1])])
        row = batch.get("row", jnp.arange(count)).astype(jnp.uint32)[:, None]
        index: UInt32[Array, "B T"] = row * jnp.uint32(2 * most) + columns.astype(jnp.uint32)
        return {name: batch[name] for name in batch if name != "packing"} | {"token_index": index}


def _same_segment(rows: Mapping[str, Array]) -> Bool[Array, "B T L"] | None:
    """Whether each key is of the query's segment; None where a batch tells none apart."""
    if "segments" not in rows:
        return None
    keys = queries = rows["segments"]
    if "asked" in rows:
        queries = jnp.concatenate([keys, jnp.take_along_axis(keys, rows["asked"], axis=1)], axis=1)
    return queries[:, :, None] == keys[:, None, :]


def _visible(rows: Mapping[str, Array]) -> Bool[Array, "B 1 T L"]:
    """Which tokens each of the two streams sees."""
    order = rows["order"]
    given = order[:, None, :]
    before = jnp.take_along_axis(order, rows["asked"], axis=1)[:, :, None]
    visible = jnp.concatenate([given <= order[:, :, None], given < before], axis=1)
    if "lengths" in rows:
        visible &= jnp.arange(order.shape[1]) < rows["lengths"][:, None, None]
    return visible[:, None]


class _Embeddings(nn.Module):
    """Of tokens alone, without a norm, with dropout; and that of the mask, for each of the places `asked`."""

    vocab_size: int
    width: int
    dropout: float
    init_stddev: float
    dropout_bits: DropoutBits

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], train: bool, token_index: UInt32[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "V D"]]:
        words = Table("VD", (self.vocab_size, self.width), self.init_stddev, name="words")
        init = nn.with_logical_partitioning(kernel_init(self.init_stddev), ("D",))
        mask = self.param("mask", init, (self.width,))
        x = words(batch["tokens"])
        if "asked" in batch:
            x = jnp.concatenate([x, jnp.broadcast_to(mask, (*batch["asked"].shape, self.width))], axis=1)
        places = Places.of_tokens(token_index, self.width)
        return Dropout(self.dropout, self.dropout_bits)(x, train, places), words.table


class _Layer(nn.Module):
    """Attention and feed-forward, each with dropout, residual, layer norm, and dropout inside of the latter, too
    (modeling.py, `rel_multihead_attn` and `positionwise_ffn`)."""

    num_heads: int
    mlp_width: int
    dropout: float
    attention_dropout: float
    activation: Activation
    norm_epsilon: float
    init_stddev: float
    dtype: ComputeDtype
    dropout_bits: DropoutBits

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        lengths: Int[Array, " B"] | None,
        sequence_ids: Int[Array, "B L"] | None,
        train: bool,
        token_index: UInt32[Array, "B T"],
        *context,
    ) -> Float[Array, "B T D"]:
        """`context` as in `RelativeAttention`: distances, segments, and of two streams what they see and where."""
        drop, width = Dropout(self.dropout, self.dropout_bits), x.shape[-1]
        attention = RelativeAttention(
            self.num_heads, self.attention_dropout, self.init_stddev, self.dtype, self.dropout_bits, name="attention"
        )
        mixed = attention(x, lengths, sequence_ids, train, token_index, *context)
        places = Places.of_tokens(token_index, width)
        x = LayerNorm(self.norm_epsilon, name="attention_norm")(x + drop(mixed, train, places))
        mlp = _Mlp(
            self.mlp_width,
            self.dropout,
            self.activation,
            self.init_stddev,
            self.dtype,
            self.dropout_bits,
            name="mlp",
        )
        wide = mlp(x, train, token_index)
        return LayerNorm(self.norm_epsilon, name="mlp_norm")(x + drop(wide, train, places))


class _Mlp(nn.Module):
    """Widen, activate, dropout, narrow."""

    width: int
    dropout: float
    activation: Activation
    init_stddev: float
    dtype: ComputeDtype
    dropout_bits: DropoutBits

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], train: bool, token_index: UInt32[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        wide = Linear("BLD,DF->BLF", (self.width,), self.init_stddev, dtype=self.dtype, name="widen")(x)
        places = Places.of_tokens(token_index, self.width)
        wide = Dropout(self.dropout, self.dropout_bits)(ACTIVATIONS[self.activation](wide), train, places)
        return Linear("BLF,DF->BLD", x.shape[-1:], self.init_stddev, dtype=self.dtype, name="narrow")(wide)


# Base and large are BERT's sizes: zihangdai/xlnet, README.md, "Released Models" (large: Yang et al. 2019, appendix
# A.4.1). There are no others in the paper.
def xlnet(size: str, **overrides) -> Xlnet:
    """The encoder of a size: `xlnet("base", dropout=0.0)`. Raises KeyError for an unknown name."""
    return Xlnet(**sized(SIZES, size) | overrides)

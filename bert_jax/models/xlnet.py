"""XLNet's encoder (Yang et al. 2019, arXiv 1906.08237; zihangdai/xlnet `modeling.py`, `transformer_xl`)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import SIZES, Tower, encode, sized
from bert_jax.nn.chunks import Chunks
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

    Not here: rows read backwards (`bi_data`). Dropout on the encodings of distances is the same in all rows of a step
    (Transformer-XL's; in XLNet's each row has its own), so that it does not depend on how rows are packed.

    Attributes:
        max_length: the longest input; there is no table of positions.
        attention: `plain`, the only one.
        segment_types: how many segments a batch can name, those of the original (classifier_utils.py, `SEG_ID_A` ...
            `SEG_ID_PAD`); they are compared and have no table.
        chunk: rows that are longer are computed in chunks of as many tokens (the original's `seq_len`), unpacked; 0 for
            none.
        memory: how many columns before a chunk its tokens see, in the states that they had in their own chunk, through
            which no gradient goes: the segment recurrence of section 2.4 (the original's `mem_len`). They count as
            segment 0 (modeling.py, `mem_pad`). Where the original carries them from one batch to the next, here all
            chunks of a row are in one: no state is older than the parameters, and a row's first chunk has none.

    The others are those of `models.tower.Tower`.
    """

    segment_types: int = 5
    chunk: int = 0
    memory: int = 0
    permutes = True  # what objectives ask of an encoder; no field, since it could be nothing else

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`).

        A batch with `order` [B, L] and `asked` [B, P] is one of right-padded rows to be predicted (section 2.3).
        `order` is 0 for tokens that are given; of the others no two in a chunk have the same, and each sees those up to
        its own. `asked` are the places of a second stream, as many in each chunk, which begins as the embedding of the
        mask, and sees what is before the place in the order: `intermediates["asked"]` [B, P, D] knows where it stands
        and not what stands there. It is computed unpacked.

        Raises ValueError for rows longer than `max_length`, for an `attention` other than `plain`, for a memory without
        chunks, and for an order, or several chunks, in rows of several sequences.
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
        chunks = Chunks.of(*batch["tokens"].shape, self.chunk, self.memory)

        def context(rows):
            apart = distances(rows["tokens"].shape[1], chunks.memory)
            places = Places.of_tokens(apart.astype(jnp.uint32)[None], self.width)
            relative = drop(sinusoids(apart, self.width)[None], train, places)[0]
            if "token_index" not in rows:  # neither two streams nor chunks: lengths and sequence_ids say what is seen
                return relative, _same_segment(rows, 0)
            same, visible = _same_segment(rows, chunks.memory), _visible(rows, chunks)
            return relative, same, visible, rows.get("asked"), chunks if chunks.memory else None

        rows = self._unpacked(batch, chunks) if "order" in batch or chunks.count > 1 else batch
        encoded = encode(self, embed, layer, rows, train, context=context)
        if rows is not batch:
            encoded = _of_batch(encoded, batch, chunks)
        inner, last = encoded.intermediates, {"hidden": encoded.hidden}
        last |= {"asked": inner["asked"]} if "order" in batch else {}
        last = {name: drop(x, train, Places.of_array(x.shape, encoded.row)) for name, x in last.items()}
        return encoded._replace(hidden=last.pop("hidden"), intermediates=inner | last)

    @nn.nowrap
    def _unpacked(self, batch: Mapping[str, Array], chunks: Chunks) -> dict[str, Array]:
        """What of a batch the layers compute, in chunks, with an index of the tokens of both streams."""
        if "sequence_ids" in batch:
            raise ValueError(
                "an order and chunks are of right-padded rows (lengths), and not of several sequences in a row"
            )
        (count, length), most = batch["tokens"].shape, self.max_length
        if length > most:
            raise ValueError(f"rows of {length} tokens, and max_length is {most}")
        row = batch.get("row", jnp.arange(count)).astype(jnp.uint32)[:, None]
        # Behind a row's tokens come the places of its second stream, up to twice as many where a chunk is filled up.
        row *= jnp.uint32(3 * most if "order" in batch else most)
        index: UInt32[Array, "R T"] = chunks.fold(row + jnp.arange(length, dtype=jnp.uint32))
        rows = {name: chunks.fold(batch[name]) for name in ("tokens", "segments", "order") if name in batch}
        rows["lengths"] = chunks.lengths(batch.get("lengths", jnp.full(count, length)))
        if "order" in batch:
            places = batch["asked"].shape[1]
            if places % chunks.count:
                raise ValueError(
                    f"{places} places are asked for, which is no multiple of the {chunks.count} chunks of a row: "
                    "the objective must have the encoder's chunk"
                )
            rows["asked"] = chunks.own_columns(batch["asked"])
            own = row + jnp.uint32(most) + jnp.arange(places, dtype=jnp.uint32)
            index = jnp.concatenate([index, own.reshape(rows["asked"].shape)], axis=1)
        return rows | {"token_index": index}


def _of_batch(encoded: Encoded, batch: Mapping[str, Array], chunks: Chunks) -> Encoded:
    """What was computed in chunks, as of the rows of the batch; the states of the second stream are `asked`."""
    inner = {
        "embeddings": chunks.unfold(encoded.intermediates["embeddings"][:, : chunks.size]),
        "layers": jax.vmap(chunks.unfold)(encoded.intermediates["layers"][:, :, : chunks.size]),
    }
    if "order" in batch:
        inner["asked"] = encoded.hidden[:, chunks.size :].reshape(*batch["asked"].shape, -1)
    hidden = chunks.unfold(encoded.hidden[:, : chunks.size])
    return encoded._replace(hidden=hidden, intermediates=inner, lengths=batch.get("lengths"), row=batch.get("row"))


def _same_segment(rows: Mapping[str, Array], memory: int) -> Bool[Array, "R T M"] | None:
    """Whether each key is of the query's segment; None where a batch tells none apart."""
    if "segments" not in rows:
        return None
    keys = queries = rows["segments"]
    if "asked" in rows:
        queries = jnp.concatenate([keys, jnp.take_along_axis(keys, rows["asked"], axis=1)], axis=1)
    return queries[:, :, None] == jnp.pad(keys, ((0, 0), (memory, 0)))[:, None, :]


def _visible(rows: Mapping[str, Array], chunks: Chunks) -> Bool[Array, "R 1 T M"]:
    """Which keys each token of one stream or two sees: all of the memory, and of its chunk what its order says."""
    real = jnp.arange(chunks.size) < rows["lengths"][:, None]
    seen = jnp.concatenate([chunks.known(), real], axis=-1)[:, None]
    visible = jnp.broadcast_to(seen, (len(seen), rows["token_index"].shape[1], seen.shape[-1]))
    if "order" in rows:
        order = rows["order"]
        given = order[:, None, :]
        before = jnp.take_along_axis(order, rows["asked"], axis=1)[:, :, None]
        ordered = jnp.concatenate([given <= order[:, :, None], given < before], axis=1)
        visible &= jnp.pad(ordered, ((0, 0), (0, 0), (chunks.memory, 0)), constant_values=True)
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
        relative: Float[Array, "R D"],
        same: Bool[Array, "B T M"] | None = None,
        visible: Bool[Array, "B 1 T M"] | None = None,
        asked: Int[Array, "B P"] | None = None,
        chunks: Chunks | None = None,
    ) -> Float[Array, "B T D"]:
        """`context` as in `RelativeAttention`, distances, segments, what is seen and from where; and where there is a
        memory, the chunks that have it."""
        drop, width = Dropout(self.dropout, self.dropout_bits), x.shape[-1]
        attention = RelativeAttention(
            self.num_heads, self.attention_dropout, self.init_stddev, self.dtype, self.dropout_bits, name="attention"
        )
        memory = None
        if chunks:
            memory = chunks.before(x[:, : chunks.size]), chunks.before(token_index[:, : chunks.size])
        mixed = attention(x, lengths, sequence_ids, train, token_index, relative, same, visible, asked, memory)
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

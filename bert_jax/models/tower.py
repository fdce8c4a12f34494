"""What encoders of equal layers share: fields, BERT's embeddings and layer, and the way from a batch to `Encoded`."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from bert_jax.models.encoded import Encoded, last_column
from bert_jax.nn.attention import AttentionKind, SelfAttention
from bert_jax.nn.dot import ComputeDtype, compute_dtype
from bert_jax.nn.dropout import Dropout, DropoutBits, Places
from bert_jax.nn.linear import INIT_STDDEV, Linear, Table
from bert_jax.nn.mlp import Activation, Mlp
from bert_jax.nn.norm import LayerNorm
from bert_jax.nn.packing import Packing
from bert_jax.nn.stack import Remat, stack


class Tower(nn.Module):
    """The fields of an encoder of equal layers; the defaults are those of BERT-base.

    Optimizers know a parameter's depth by its name: `embeddings...` is below the layers, `layers` are the layers, and
    all else is above them (`training.optim.depths`).

    Attributes:
        vocab_size: V; 0 stands for that of the tokenizer which the data was made with.
        num_layers: N.
        width: D.
        num_heads: H; divides the width.
        mlp_width: F.
        max_length: the longest input.
        dropout: on the embeddings and on each block's output.
        attention_dropout: on the attention probabilities.
        activation: BERT's GELU is the tanh approximation.
        norm_epsilon: of every layer norm.
        init_stddev: of every kernel and table.
        attention: what computes it: `plain` is this project's, and alone has attention dropout; `xla` and `cudnn` are
            those of `jax.nn.dot_product_attention`.
        dropout_bits: `hash` needs no memory and is a function of a token's row and column in the batch, wherever it is
            computed; `jax` is its own generator.
        scan: one looped layer instead of unrolled ones: compiles faster, runs slower, same parameters.
        remat: what of each layer is computed again in the backward pass and not kept (`nn.stack.POLICIES`); implies
            `scan`.
        dtype: of the operands of every dot; `auto` is float32 on CPU, bfloat16 elsewhere. Parameters stay float32.
    """

    vocab_size: int = 0
    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_width: int = 3072
    max_length: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: Activation = "gelu_tanh"
    norm_epsilon: float = 1e-12
    init_stddev: float = INIT_STDDEV
    attention: AttentionKind = "plain"
    dropout_bits: DropoutBits = "hash"
    scan: bool = False
    remat: Remat = "none"
    dtype: ComputeDtype = "auto"

    # Whether what is computed of a row is the same however far it is padded, and in whatever row.
    ignores_padding = True

    @property
    def layer_sets(self) -> int:
        """How many layers have parameters of their own, the length of the axis N: all, where none are shared."""
        return self.num_layers


# name: (layers, width). Base and large: Devlin et al. 2018, section 3. The small ones: Turc et al. 2019, arXiv
# 1908.08962, table 1.
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


def sized(sizes: Mapping[str, tuple[int, int]], size: str) -> dict[str, int]:
    """Fields of a size `name: (layers, width)`: heads are width / 64, the feed-forward width is 4 x width. Raises
    KeyError for an unknown name."""
    num_layers, width = sizes[size]
    return {"num_layers": num_layers, "width": width, "num_heads": width // 64, "mlp_width": 4 * width}


def encode(
    encoder: Tower,
    embed: Callable[..., tuple[Array, Array]],
    layer: nn.Module,
    batch: Mapping[str, Array],
    train: bool,
    *,
    pooler: bool = False,
    causal: bool = False,
    last_norm: nn.Module | None = None,
    context: Callable[[Mapping[str, Array]], tuple] = lambda rows: (),
    numbered: bool = False,
) -> Encoded:
    """From a batch to hidden states: embeddings, tower, pooler, packing.

    Args:
        encoder: whose parameters they become, called from its compact method.
        embed: `(rows, train, token_index) -> (embedded [B, L, D], table [V, E])`, as `Embeddings`.
        layer: `(x [B, L, D], lengths, sequence_ids, train, token_index) -> [B, L, D]`, as `Layer`; named "layers".
        batch: `tokens` [B, L]; `segments` [B, L], all 0 by default; `lengths` [B] of right-padded rows, or
            `sequence_ids` [B, L] with 0 for padding; `positions` [B, L], by default those of the row; `row` [B], the
            number of each row in the batch that this one is a part of, for dropout; `token_index` [B, L] in its place,
            a number of each token, in rows that may be longer than the encoder's. With `packing` [G, R, M]
            (`data.packing.plan`) right-padded rows are computed in these packed ones, and what is returned is that of
            the rows of the batch, with 0 at padding.
        pooler: whether there is one, over the first token or, where tokens see those before them only (`causal`), over
            the last one.
        last_norm: over the output of the last layer, of layers that begin with their norm; the others stay without.
        context: what else each layer is called with, made of the rows that are computed.
        numbered: each layer is called with its number, too, as its last argument (`nn.stack`).

    Raises ValueError for rows longer than `max_length`.
    """
    _check(encoder, batch)
    packing, rows = None, batch
    if "packing" in batch:
        packing = Packing(batch["packing"], *batch["tokens"].shape)
        rows = packing.inputs(batch)
    token_index = _token_index(rows, encoder.max_length, packed=packing is not None)
    embeddings, table = embed(rows, train, token_index)
    hidden, layers = stack(
        layer,
        embeddings,
        rows.get("lengths"),
        rows.get("sequence_ids"),
        train,
        token_index,
        *context(rows),
        count=encoder.num_layers,
        sets=encoder.layer_sets,
        scan=encoder.scan,
        remat=encoder.remat,
        numbered=numbered,
    )
    if last_norm is not None:
        hidden = last_norm(hidden)
        layers = layers.at[-1].set(hidden)
    pooled = None
    if pooler:  # modeling.py:224-232: always tanh, whatever the activation
        first = Linear("BD,DE->BE", (encoder.width,), stddev=encoder.init_stddev, dtype=encoder.dtype, name="pooler")
        pooled = jnp.tanh(first(_pooled_token(hidden, batch, packing, causal)))
        pooled = pooled.astype(compute_dtype(encoder.dtype))
    hidden = hidden.astype(compute_dtype(encoder.dtype))
    inner = {"embeddings": embeddings, "layers": layers}
    if packing:
        hidden = packing.unpack(hidden)
        inner = {"embeddings": packing.unpack(embeddings), "layers": jax.vmap(packing.unpack)(layers)}
    seen = (batch.get(name) for name in ("lengths", "sequence_ids", "row"))
    return Encoded(hidden, pooled, table, inner, *seen)


def _pooled_token(
    hidden: Float[Array, "R M D"], batch: Mapping[str, Array], packing: Packing | None, causal: bool
) -> Float[Array, "B D"]:
    if causal:
        column = last_column(*batch["tokens"].shape, batch.get("lengths"), batch.get("sequence_ids"))
    elif packing:
        column = jnp.zeros_like(batch["lengths"])
    else:
        return hidden[:, 0]
    if packing:
        return packing.one_each(hidden, column)
    return jnp.take_along_axis(hidden, column[:, None, None], axis=1)[:, 0]


def _check(encoder: Tower, batch: Mapping[str, Array]) -> None:
    if encoder.width % encoder.num_heads:
        raise ValueError(f"width {encoder.width} is not a multiple of num_heads {encoder.num_heads}")
    if encoder.vocab_size <= 0:
        raise ValueError(f"vocab_size is {encoder.vocab_size}: give the tokenizer's")
    length = batch["tokens"].shape[1]
    if length > encoder.max_length and "token_index" not in batch:
        raise ValueError(f"rows of {length} tokens, but the encoder takes {encoder.max_length} (max_length)")
    if "packing" in batch and ("sequence_ids" in batch or "positions" in batch):
        raise ValueError("packing is of right-padded rows: it makes sequence_ids and positions itself")


class Embeddings(nn.Module):
    """Word + position + segment, layer norm, dropout, in this order (modeling.py:368-372, 482-520).

    Attributes:
        segment_types: 0 for none and no table of them.
        first_position: row of the position table that the first token has; RoBERTa's leaves two out.
        projected: D where the tables are of another width, E, and a projection follows; 0 for none.
    """

    vocab_size: int
    width: int
    max_length: int
    segment_types: int
    dropout: float
    norm_epsilon: float
    init_stddev: float
    dropout_bits: DropoutBits = "hash"
    first_position: int = 0
    projected: int = 0
    dtype: ComputeDtype = "auto"

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], train: bool, token_index: UInt32[Array, "B L"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "V E"]]:
        tokens = batch["tokens"]
        words = Table("VD", (self.vocab_size, self.width), self.init_stddev, name="words")
        first = self.first_position
        positions = Table("LD", (first + self.max_length, self.width), self.init_stddev, name="positions")
        x = words(tokens)
        if "positions" in batch:
            x += positions(first + batch["positions"])
        else:
            x += positions.table[first : first + tokens.shape[1]]
        if self.segment_types:
            segments = Table("SD", (self.segment_types, self.width), self.init_stddev, name="segments")
            x += segments(batch["segments"]) if "segments" in batch else segments.table[0]
        x = LayerNorm(self.norm_epsilon, name="norm")(x)
        places = Places.of_tokens(token_index, self.width)
        x = Dropout(self.dropout, self.dropout_bits)(x, train, places)
        if self.projected:
            x = Linear("BLE,ED->BLD", (self.projected,), self.init_stddev, dtype=self.dtype, name="projection")(x)
        return x, words.table


def embeddings_of(
    encoder: Tower, segment_types: int = 0, first_position: int = 0, table_width: int = 0
) -> "Embeddings":
    """BERT's embeddings, of an encoder's sizes; with a `table_width` E its tables have that, and are projected."""
    return Embeddings(
        encoder.vocab_size,
        table_width or encoder.width,
        encoder.max_length,
        segment_types,
        encoder.dropout,
        encoder.norm_epsilon,
        encoder.init_stddev,
        encoder.dropout_bits,
        first_position,
        encoder.width if table_width else 0,
        encoder.dtype,
        name="embeddings",
    )


class Layer(nn.Module):
    """Attention and feed-forward, each as dense, dropout, residual, layer norm (modeling.py:858-880: post-norm)."""

    num_heads: int
    mlp_width: int
    dropout: float
    attention_dropout: float
    activation: Activation
    norm_epsilon: float
    init_stddev: float
    dtype: ComputeDtype
    causal: bool = False
    attention: AttentionKind = "plain"
    dropout_bits: DropoutBits = "hash"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        lengths: Int[Array, " B"] | None,
        sequence_ids: Int[Array, "B L"] | None,
        train: bool,
        token_index: UInt32[Array, "B L"],
        bias: Float[Array, "#B H L M"] | None = None,
    ) -> Float[Array, "B L D"]:
        places = Places.of_tokens(token_index, x.shape[-1])
        drop = Dropout(self.dropout, self.dropout_bits)
        attention = SelfAttention(
            self.num_heads,
            self.attention_dropout,
            self.init_stddev,
            self.dtype,
            self.causal,
            self.attention,
            self.dropout_bits,
            name="attention",
        )
        mixed = attention(x, lengths, sequence_ids, train, token_index, bias=bias)
        x = LayerNorm(self.norm_epsilon, name="attention_norm")(x + drop(mixed, train, places))
        wide = Mlp(self.mlp_width, self.activation, self.init_stddev, self.dtype, name="mlp")(x)
        return LayerNorm(self.norm_epsilon, name="mlp_norm")(x + drop(wide, train, places))


def layer_of(encoder: Tower, causal: bool = False) -> Layer:
    """BERT's layer, of an encoder's sizes."""
    return Layer(
        encoder.num_heads,
        encoder.mlp_width,
        encoder.dropout,
        encoder.attention_dropout,
        encoder.activation,
        encoder.norm_epsilon,
        encoder.init_stddev,
        encoder.dtype,
        causal,
        encoder.attention,
        encoder.dropout_bits,
        name="layers",
    )


def _token_index(rows: Mapping[str, Array], stride: int, packed: bool) -> UInt32[Array, "R M"]:
    """b * `stride` + l of the token in column l of row b of the batch, of the whole one where this is a micro-batch,
    wherever it is computed; or the one that it brings."""
    if "token_index" in rows:
        return rows["token_index"]
    if packed:
        row, column = rows.get("row", rows["sequence_ids"] - 1), rows["positions"]
    else:
        row, column = jnp.indices(rows["tokens"].shape, sparse=True)
        row = rows["row"][:, None] if "row" in rows else row
    return row.astype(jnp.uint32) * jnp.uint32(stride) + column.astype(jnp.uint32)

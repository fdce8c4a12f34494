"""ModernBERT's encoder (Warner et al. 2024, arXiv 2412.13663, section 2.1; AnswerDotAI/ModernBERT)."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import Tower, encode
from bert_jax.nn.attention import AttentionKind, SelfAttention
from bert_jax.nn.dot import ComputeDtype
from bert_jax.nn.dropout import Dropout, DropoutBits, Places
from bert_jax.nn.linear import Table
from bert_jax.nn.mlp import Activation, GatedMlp
from bert_jax.nn.norm import LayerNorm
from bert_jax.nn.rotary import frequencies, turns


class ModernBert(Tower):
    """A tower of pre-norm layers without biases, with rotary positions and gated feed-forward blocks, that attend to
    everything in every third layer and to their neighbourhood in the others; the defaults are ModernBERT-base.

    Segments of a batch are not looked at. The first layer has no norm before its attention, since the embeddings end in
    one: row 0 of `layers/attention_norm/scale` is of no layer, and nothing depends on it. Sequences that share a row
    must each be in one piece, as packing has them: a window is of neighbouring columns.

    Attributes:
        max_length: the longest input; there is no table of positions.
        dropout: on the attention's output, and nowhere else: 0.1 in pre-training (`attn_out_dropout_prob` of the
            released configuration, yamls/modernbert/modernbert-base-pretrain.yaml), 0 in the released models.
        init_stddev: of every kernel and table, but divided by sqrt(2 N) in those that write to the residual
            (`init_method: full_megatron` of the released configuration).
        global_every: layers 0, this, twice this ... attend to everything.
        window: tokens, half of them on each side, that a token of the other layers sees besides itself.
        global_theta, local_theta: base of the rotary frequencies. The paper begins pre-training with 10,000 in both,
            and has 160,000 in the global layers from the extension to 8,192 tokens on (section 2.2.2).
        segment_types: 0; nothing else makes sense.

    The others are those of `models.tower.Tower`.
    """

    num_layers: int = 22
    mlp_width: int = 1152
    max_length: int = 8192
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-5
    global_every: int = 3
    window: int = 128
    global_theta: float = 160_000.0
    local_theta: float = 10_000.0
    segment_types: int = 0

    @property
    def out_stddev(self) -> float:
        """Of the kernels that write to the residual, and of the heads' hidden layer."""
        return self.init_stddev / math.sqrt(2 * self.num_layers)

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than `max_length`."""
        batch = {name: batch[name] for name in batch if name != "segments"}
        embeddings = _Embeddings(self.vocab_size, self.width, self.norm_epsilon, self.init_stddev, name="embeddings")
        layer = _Layer(
            self.num_heads,
            self.mlp_width,
            self.dropout,
            self.attention_dropout,
            self.activation,
            self.norm_epsilon,
            self.init_stddev,
            self.out_stddev,
            self.dtype,
            self.attention,
            self.dropout_bits,
            self.global_every,
            self.window,
            name="layers",
        )
        last_norm = LayerNorm(self.norm_epsilon, use_bias=False, name="last_norm")
        return encode(self, embeddings, layer, batch, train, last_norm=last_norm, context=self._turns, numbered=True)

    @nn.nowrap
    def _turns(self, rows: Mapping[str, Array]) -> tuple[Array, Array]:
        """The angles of global layers and those of local ones, by the place of each token in its sequence."""
        positions = rows.get("positions", jnp.arange(rows["tokens"].shape[1])[None])
        head_width = self.width // self.num_heads
        return tuple(turns(positions, frequencies(head_width, base)) for base in (self.global_theta, self.local_theta))


class _Embeddings(nn.Module):
    """Of tokens alone, with a norm."""

    vocab_size: int
    width: int
    norm_epsilon: float
    init_stddev: float

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], train: bool, token_index: UInt32[Array, "B L"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "V D"]]:
        words = Table("VD", (self.vocab_size, self.width), self.init_stddev, name="words")
        return LayerNorm(self.norm_epsilon, use_bias=False, name="norm")(words(batch["tokens"])), words.table


class _Layer(nn.Module):
    """Norm, attention, residual; norm, gated feed-forward, residual.

    Attributes:
        out_stddev: of the kernels that write to the residual.

    The others are those of the encoder.
    """

    num_heads: int
    mlp_width: int
    dropout: float
    attention_dropout: float
    activation: Activation
    norm_epsilon: float
    init_stddev: float
    out_stddev: float
    dtype: ComputeDtype
    attention: AttentionKind
    dropout_bits: DropoutBits
    global_every: int
    window: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        lengths: Int[Array, " B"] | None,
        sequence_ids: Int[Array, "B L"] | None,
        train: bool,
        token_index: UInt32[Array, "B L"],
        globally: Float[Array, "2 #B L half"],
        locally: Float[Array, "2 #B L half"],
        number: Int[Array, ""],
    ) -> Float[Array, "B L D"]:
        """Angles of rotary positions (`nn.rotary.turns`) are those of global layers, and of local ones."""
        attention = SelfAttention(
            self.num_heads,
            self.attention_dropout,
            self.init_stddev,
            self.dtype,
            kind=self.attention,
            dropout_bits=self.dropout_bits,
            use_bias=False,
            out_stddev=self.out_stddev,
            name="attention",
        )
        mlp = GatedMlp(self.mlp_width, self.activation, self.init_stddev, self.out_stddev, self.dtype, name="mlp")
        drop, places = Dropout(self.dropout, self.dropout_bits), Places.of_tokens(token_index, x.shape[-1])
        is_global = number % self.global_every == 0
        turned = jnp.where(is_global, globally, locally)
        window = jnp.where(is_global, x.shape[1], self.window // 2)
        y = jnp.where(number == 0, x, LayerNorm(self.norm_epsilon, use_bias=False, name="attention_norm")(x))
        x = x + drop(attention(y, lengths, sequence_ids, train, token_index, turned, window), train, places)
        return x + mlp(LayerNorm(self.norm_epsilon, use_bias=False, name="mlp_norm")(x))


# name: (layers, width, heads, feed-forward width). Base and large: Warner et al. 2024, section 2.1.3 and appendix B,
# table 4. There are no smaller ones in the paper: the small sizes have BERT's layers and widths (`models.tower.SIZES`),
# and base's share of feed-forward width.
SIZES = {
    "tiny": (2, 128, 2, 192),
    "mini": (4, 256, 4, 384),
    "small": (4, 512, 8, 768),
    "medium": (8, 512, 8, 768),
    "base": (22, 768, 12, 1152),
    "large": (28, 1024, 16, 2624),
}


def modernbert(size: str, **overrides) -> ModernBert:
    """The encoder of a size: `modernbert("base", dropout=0.1)`. Raises KeyError for an unknown name."""
    fields = dict(zip(("num_layers", "width", "num_heads", "mlp_width"), SIZES[size], strict=True))
    return ModernBert(**fields | overrides)

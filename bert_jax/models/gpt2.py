"""GPT-2's encoder (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; openai/gpt-2
`src/model.py`): BERT's blocks with the norm before each, from left to right."""

import math
from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float, Int, UInt32

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import Tower, encode, sized
from bert_jax.nn.attention import AttentionKind, SelfAttention
from bert_jax.nn.dot import ComputeDtype
from bert_jax.nn.dropout import Dropout, DropoutBits, Places
from bert_jax.nn.linear import Table
from bert_jax.nn.mlp import Activation, Mlp
from bert_jax.nn.norm import LayerNorm


class Gpt2(Tower):
    """Embeddings of tokens and positions, a tower of pre-norm layers, a norm over its output; the defaults are the
    smallest model's. A token sees itself and those before it only.

    Segments of a batch are not looked at. There is no pooler: a head over texts reads the last token
    (`Classify(hidden="last")`). As everywhere here, weights are drawn from a normal that is cut at two deviations; the
    original's is not cut.

    Attributes:
        segment_types: 0; nothing else makes sense.
        norm_epsilon: 1e-5 (model.py, `norm`).
        init_stddev: of every kernel and of the tokens' table. That of the positions' table is half of it (model.py,
            `model`); that of the two projections of a layer which end in the residual stream is 1 / sqrt(2 N) of it,
            N layers having 2 N of them (section 2.3; not in the released code, which trains nothing).

    The others are those of `models.tower.Tower`.
    """

    max_length: int = 1024
    norm_epsilon: float = 1e-5
    segment_types: int = 0
    causal = True  # what objectives ask of an encoder; no field, since it could be nothing else

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than the position table."""
        batch = {name: batch[name] for name in batch if name != "segments"}
        embeddings = Gpt2Embeddings(
            self.vocab_size,
            self.width,
            self.max_length,
            self.dropout,
            self.init_stddev,
            self.dropout_bits,
            name="embeddings",
        )
        layer = PreNormLayer(
            self.num_heads,
            self.mlp_width,
            self.dropout,
            self.attention_dropout,
            self.activation,
            self.norm_epsilon,
            self.init_stddev,
            self.init_stddev / math.sqrt(2 * self.num_layers),
            self.dtype,
            self.attention,
            self.dropout_bits,
            name="layers",
        )
        last_norm = LayerNorm(self.norm_epsilon, name="last_norm")
        return encode(self, embeddings, layer, batch, train, last_norm=last_norm)


class Gpt2Embeddings(nn.Module):
    """Word + position, dropout; no norm (model.py, `model`)."""

    vocab_size: int
    width: int
    max_length: int
    dropout: float
    init_stddev: float
    dropout_bits: DropoutBits = "hash"

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], train: bool, token_index: UInt32[Array, "B L"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "V D"]]:
        words = Table("VD", (self.vocab_size, self.width), self.init_stddev, name="words")
        positions = Table("LD", (self.max_length, self.width), self.init_stddev / 2, name="positions")
        x = words(batch["tokens"])
        x += positions(batch["positions"]) if "positions" in batch else positions.table[: x.shape[1]]
        return Dropout(self.dropout, self.dropout_bits)(
            x, train, Places.of_tokens(token_index, self.width)
        ), words.table


class PreNormLayer(nn.Module):
    """Attention and feed-forward, each as layer norm, dense, dropout, residual (model.py, `block`)."""

    num_heads: int
    mlp_width: int
    dropout: float
    attention_dropout: float
    activation: Activation
    norm_epsilon: float
    init_stddev: float
    out_stddev: float
    dtype: ComputeDtype
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
    ) -> Float[Array, "B L D"]:
        places = Places.of_tokens(token_index, x.shape[-1])
        drop = Dropout(self.dropout, self.dropout_bits)
        attention = SelfAttention(
            self.num_heads,
            self.attention_dropout,
            self.init_stddev,
            self.dtype,
            True,
            self.attention,
            self.dropout_bits,
            out_stddev=self.out_stddev,
            name="attention",
        )
        normed = LayerNorm(self.norm_epsilon, name="attention_norm")(x)
        x += drop(attention(normed, lengths, sequence_ids, train, token_index), train, places)
        normed = LayerNorm(self.norm_epsilon, name="mlp_norm")(x)
        mlp = Mlp(self.mlp_width, self.activation, self.init_stddev, self.dtype, self.out_stddev, name="mlp")
        return x + drop(mlp(normed), train, places)


# name: (layers, width). From small on: Radford et al. 2019, table 2 (whose smallest has no name; these are those of the
# released weights), with the heads of the released `hparams.json`, width / 64. Below: BERT's (`models.tower.SIZES`).
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (12, 768),
    "medium": (24, 1024),
    "large": (36, 1280),
    "xl": (48, 1600),
}


def gpt2(size: str, **overrides) -> Gpt2:
    """The encoder of a size: `gpt2("small", dropout=0.0)`. Raises KeyError for an unknown name."""
    return Gpt2(**sized(SIZES, size) | overrides)

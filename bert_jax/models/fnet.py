"""FNet's encoder: a Fourier transform in place of attention (Lee-Thorp et al. 2021, arXiv 2105.03824; google-research
`f_net`)."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float, Int, UInt32

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import SIZES, Embeddings, Tower, encode, sized
from bert_jax.nn.dot import ComputeDtype
from bert_jax.nn.dropout import Dropout, DropoutBits, Places
from bert_jax.nn.fourier import FourierKind, fourier
from bert_jax.nn.linear import Linear
from bert_jax.nn.mlp import Activation, Mlp
from bert_jax.nn.norm import LayerNorm


class Fnet(Tower):
    """BERT's tower with the real part of a two-dimensional Fourier transform, over the tokens of a row and over their
    features, where BERT has attention; the defaults are FNet-base.

    The transform has no parameters and no mask: each column of a row is mixed into all others, padding like any token,
    as in the original, which was trained so. What is computed of a row hence depends on how far it is padded and on
    what stands there, and `lengths` are looked at by the heads alone. So that a run is a function of its examples, and
    a prediction of its text, all rows of data and of texts are padded to one length, `max_length` (`padding` "full");
    only the arrays that a loaded model is called with are taken as they are. Packed rows cannot be.

    Attributes:
        num_heads: 1; there are none.
        segment_types: S; the released models have 4, of which pre-training uses 2 (`configs/base.py`).
        pooler: whether there is one, over `[CLS]`.
        fourier: how it is computed (`nn.fourier`); on several devices "matmul" is the faster one.

    The others are those of `models.tower.Tower`; those of attention are not looked at.
    """

    num_heads: int = 1
    segment_types: int = 4
    pooler: bool = True
    fourier: FourierKind = "fft"

    # What is asked before batches are laid out: padding is computed as any token.
    ignores_padding = False

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than the position table, and for
        several sequences in a row."""
        if "packing" in batch or "sequence_ids" in batch:
            raise ValueError(
                "Fnet mixes all columns of a row: it cannot keep several sequences in one apart, nor leave columns out "
                'by a mask; set padding to "full", and give right-padded rows'
            )
        embeddings = Embeddings(
            self.vocab_size,
            self.width,
            self.max_length,
            self.segment_types,
            0.0,  # behind the projection
            self.norm_epsilon,
            self.init_stddev,
            self.dropout_bits,
            name="embeddings",
        )
        # There also where the widths are equal, as they are in all released models (f_net `layers.py`, EmbeddingLayer).
        project = Linear("BLE,ED->BLD", (self.width,), self.init_stddev, dtype=self.dtype, name="embeddings_project")

        def embed(rows, train, token_index):
            x, table = embeddings(rows, train, token_index)
            places = Places.of_tokens(token_index, self.width)
            return Dropout(self.dropout, self.dropout_bits)(project(x), train, places), table

        layer = FourierLayer(
            self.mlp_width,
            self.dropout,
            self.activation,
            self.norm_epsilon,
            self.init_stddev,
            self.dtype,
            self.fourier,
            self.dropout_bits,
            name="layers",
        )
        return encode(self, embed, layer, batch, train, pooler=self.pooler)


class FourierLayer(nn.Module):
    """Transform and feed-forward, each with residual and layer norm; dropout on the latter only (f_net `layers.py`,
    EncoderBlock)."""

    mlp_width: int
    dropout: float
    activation: Activation
    norm_epsilon: float
    init_stddev: float
    dtype: ComputeDtype
    fourier: FourierKind = "fft"
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
        x = LayerNorm(self.norm_epsilon, name="mixing_norm")(x + fourier(x, self.fourier, self.dtype))
        wide = Mlp(self.mlp_width, self.activation, self.init_stddev, self.dtype, name="mlp")(x)
        places = Places.of_tokens(token_index, x.shape[-1])
        wide = Dropout(self.dropout, self.dropout_bits)(wide, train, places)
        return LayerNorm(self.norm_epsilon, name="mlp_norm")(x + wide)


# Base and large are BERT's sizes: Lee-Thorp et al. 2021, section 4.1, and f_net's README.
def fnet(size: str, **overrides) -> Fnet:
    """The encoder of a size: `fnet("base", dropout=0.0)`. Raises KeyError for an unknown name."""
    return Fnet(**sized(SIZES, size) | {"num_heads": 1} | overrides)

"""ELECTRA's encoder (Clark et al. 2020, arXiv 2003.10555): BERT's over embeddings of a width of their own, no pooler.

Discriminator and generator are both of it; how they are trained together is in `learners.electra`. The code followed is
google-research/electra, `model/modeling.py`.
"""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array

from bert_jax.models.encoded import Encoded
from bert_jax.models.tower import Embeddings, Tower, encode, layer_of, sized
from bert_jax.nn.linear import Linear
from bert_jax.nn.mlp import Activation


class Electra(Tower):
    """BERT's tower over narrower embeddings; the defaults are ELECTRA-small (appendix A, table 6).

    Attributes:
        embedding_width: E, of the tables and their norm; where it is not the width, a projection makes D of it.
        segment_types: as in BERT.
        activation: the exact GELU (modeling.py, `gelu`).

    The others are those of `models.tower.Tower`.
    """

    width: int = 256
    embedding_width: int = 128
    num_heads: int = 4
    mlp_width: int = 1024
    activation: Activation = "gelu"
    segment_types: int = 2

    def setup(self):
        self.embeddings = Embeddings(
            self.vocab_size,
            self.embedding_width,
            self.max_length,
            self.segment_types,
            self.dropout,
            self.norm_epsilon,
            self.init_stddev,
            self.dropout_bits,
        )

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], train: bool = False, embeddings: Embeddings | None = None
    ) -> Encoded:
        """Encodes a batch (`models.tower.encode`); raises ValueError for rows longer than the position table.

        embeddings: those of another encoder in place of its own; the projection stays its own.
        """
        embeddings = self.embeddings if embeddings is None else embeddings
        project = Linear("BLE,ED->BLD", (self.width,), self.init_stddev, dtype=self.dtype, name="embeddings_project")

        def embed(rows, train, token_index):
            x, table = embeddings(rows, train, token_index)
            return (x if self.width == self.embedding_width else project(x)), table

        return encode(self, embed, layer_of(self), batch, train)


# name: (layers, width, width of the embeddings, width of the generator's layers as a share of it). Clark et al. 2020,
# appendix A, table 6.
SIZES = {"small": (12, 256, 128, 1 / 4), "base": (12, 768, 768, 1 / 3), "large": (24, 1024, 1024, 1 / 4)}


def electra(size: str, **overrides) -> Electra:
    """The discriminator of a size: `electra("small", dropout=0.0)`. Raises KeyError for an unknown name."""
    layers = {name: found[:2] for name, found in SIZES.items()}
    return Electra(**sized(layers, size) | {"embedding_width": SIZES[size][2]} | overrides)


def generator_of(encoder: Electra, share: float) -> Electra:
    """The generator of a discriminator: as many layers, of `share` of its width (run_pretraining.py,
    `get_generator_config`); for sharing, its tables have the same shape. Raises ValueError where no width is left, and
    where heads do not divide it."""
    width = round(encoder.width * share)
    heads = max(1, width // 64)
    if width < 1 or width % heads:
        raise ValueError(f"a generator of {share} x width {encoder.width} = {width}: {heads} heads must divide it")
    return encoder.clone(width=width, num_heads=heads, mlp_width=4 * width)

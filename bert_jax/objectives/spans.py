"""Masks of contiguous words, for `Mlm` (Joshi et al. 2019, arXiv 1907.10529: SpanBERT, section 3.1)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


@dataclass(frozen=True)
class Spans:
    """Chooses spans of whole words until a share of the row is spent: `Mlm(masking=Spans())`.

    As in facebookresearch/SpanBERT (`fairseq/data/masking.py`, PairWithSpanMaskingScheme) a span begins with the word
    of a token that is drawn uniformly from those not chosen yet, has a number of words of its own, and ends earlier at
    a special token; it may run into an earlier one, and spans that overlap or touch are one. Their code cuts the last
    word where the share is spent in the middle of it; the paper has complete words only, and so has this: a span ends
    before a word that does not fit, and one whose first word does not is passed over.

    Attributes:
        p: of the geometric distribution of the number of words.
        longest: a span in words; the distribution is cut there and scaled to 1 (mean 3.8 with p 0.2).
    """

    p: float = 0.2
    longest: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.p < 1 or self.longest < 1:
            raise ValueError(f"Spans has p {self.p} and longest {self.longest}: p is between 0 and 1, longest from 1")

    def shares(self) -> Float[np.ndarray, " W"]:
        """How likely spans of 1, 2, ... `longest` words are."""
        falling = self.p * (1 - self.p) ** np.arange(self.longest)
        return falling / falling.sum()

    def draw(self, key: Key[Array, ""], count: int) -> Int[Array, " {count}"]:
        """So many lengths of spans, in words."""
        ends = jnp.asarray(np.cumsum(self.shares())[:-1], jnp.float32)
        return 1 + jnp.searchsorted(ends, jax.random.uniform(key, (count,)), side="right")

    def choose(
        self,
        keys: Key[Array, " B"],
        candidate: Bool[Array, "B L"],
        continues: Bool[Array, "B L"],
        count: Int[Array, " B"],
    ) -> tuple[Bool[Array, "B L"], Int[Array, "B L"]]:
        """The tokens that are predicted, and for each column that whose coin it shares: the first of its span.

        Args:
            keys: of each row.
            candidate: tokens that may be chosen.
            continues: those that belong to the word before them; after a token that is no candidate begins a word.
            count: of each row, how many are chosen at most.
        """
        chosen = jax.vmap(self._choose_row)(keys, candidate, continues, count)
        begins = chosen & ~jnp.pad(chosen, ((0, 0), (1, 0)))[:, :-1]
        columns = jnp.arange(chosen.shape[1])
        first = jax.lax.cummax(jnp.where(begins, columns, 0), axis=1)
        return chosen, jnp.where(chosen, first, columns)

    def _choose_row(
        self, key: Key[Array, ""], candidate: Bool[Array, " L"], continues: Bool[Array, " L"], count: Int[Array, ""]
    ) -> Bool[Array, " L"]:
        (length,) = candidate.shape
        order, draw = jax.random.split(key)
        score = jax.random.uniform(order, (length,))
        words = self.draw(draw, length)  # of a span of each token, should one begin there
        begins = candidate & ~(continues & jnp.pad(candidate, (1, 0))[:-1])
        word = jnp.cumsum(begins)
        stretch = jnp.cumsum(~candidate)  # between special tokens
        closes = jnp.append(~candidate[1:] | begins[1:], True)
        last = jax.lax.cummin(jnp.where(closes, jnp.arange(length), length - 1), reverse=True)

        def unspent(state):
            chosen, passed, left = state
            return (left > 0) & jnp.any(candidate & ~chosen & ~passed)

        def add_span(state):
            chosen, passed, left = state
            anchor = jnp.argmin(jnp.where(candidate & ~chosen & ~passed, score, 2.0))
            inside = candidate & (stretch == stretch[anchor])
            inside &= (word >= word[anchor]) & (word < word[anchor] + words[anchor])
            spent = jnp.cumsum(inside & ~chosen)[last]  # with the whole word that a token is of
            new = inside & ~chosen & (spent <= left)
            passed |= (word == word[anchor]) & ~new.any()  # what does not fit now, never will
            return chosen | new, passed, left - jnp.sum(new)

        nothing = jnp.zeros_like(candidate)
        return jax.lax.while_loop(unspent, add_span, (nothing, nothing, count))[0]

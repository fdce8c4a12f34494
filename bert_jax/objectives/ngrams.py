"""Masks of up to n words in a row, for `Mlm` (Lan et al. 2019, arXiv 1909.11942: ALBERT, section 4.1)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


@dataclass(frozen=True)
class Ngrams:
    """Chooses n-grams until a share of the row is spent: `Mlm(masking=Ngrams())`.

    As in google-research/albert (create_pretraining_data.py, `create_masked_lm_predictions`) all words are gone through
    in random order, each as the first of an n-gram whose n is drawn with p(n) proportional to 1 / n. Where that many do
    not fit any more, it is the most that do; where one of them is chosen already, none is. An n-gram ends with the row,
    and goes on behind a special token. Each token has a coin of its own.

    Attributes:
        longest: an n-gram in words, 3 in the paper.
        whole_word: of whole words; False takes each token for one.
    """

    longest: int = 3
    whole_word: bool = True

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"Ngrams has longest {self.longest}: it is from 1")

    def shares(self) -> Float[np.ndarray, " W"]:
        """How likely n-grams of 1, 2, ... `longest` words are: equation 1."""
        falling = 1 / np.arange(1, self.longest + 1)
        return falling / falling.sum()

    def choose(
        self,
        keys: Key[Array, " B"],
        candidate: Bool[Array, "B L"],
        continues: Bool[Array, "B L"],
        count: Int[Array, " B"],
    ) -> tuple[Bool[Array, "B L"], None]:
        """The tokens that are predicted; no two share a coin.

        Args:
            keys: of each row.
            candidate: tokens that may be chosen.
            continues: those that belong to the candidate before them.
            count: of each row, how many are chosen at most.
        """
        length = candidate.shape[1]
        order, draw = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        score = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(order)
        ends = jnp.asarray(np.cumsum(self.shares())[:-1], jnp.float32)
        share = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(draw)
        words = 1 + jnp.searchsorted(ends, share, side="right")
        continues = continues if self.whole_word else jnp.zeros_like(continues)
        return jax.vmap(self._choose_row)(score, words, candidate, continues, count), None

    def _choose_row(
        self,
        score: Float[Array, " L"],
        words: Int[Array, " L"],
        candidate: Bool[Array, " L"],
        continues: Bool[Array, " L"],
        count: Int[Array, ""],
    ) -> Bool[Array, " L"]:
        """`words`: of the n-gram that begins with each word, numbered as the words are, in the order of `score`."""
        (length,) = candidate.shape
        places = jnp.arange(self.longest)
        begins = candidate & ~(continues & (jnp.cumsum(candidate) > candidate))
        word = jnp.maximum(jnp.cumsum(begins) - 1, 0)
        size = jnp.zeros(length + self.longest, jnp.int32).at[word].add(candidate)  # in tokens; behind the last word 0
        spent = jnp.cumsum(size[jnp.arange(length)[:, None] + places], axis=1)  # by the first, the first two, ...

        def take(state, first):
            chosen, left = state
            fitting = (places < words[first]) & (spent[first] <= left)  # the first few
            wanted = first + places
            taken = fitting & (size[first] > 0) & ~jnp.any(chosen[wanted] & fitting)
            return (chosen.at[wanted].max(taken), left - jnp.sum(size[wanted] * taken)), None

        order = jnp.argsort(jnp.where(size[:length] > 0, score, 2.0))
        (chosen, _), _ = jax.lax.scan(take, (jnp.zeros(length + self.longest, bool), count), order)
        return candidate & chosen[word]

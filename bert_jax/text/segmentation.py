"""Words of languages that are written without spaces, for whole-word masking (Cui et al. 2019, arXiv:1906.08101).

BERT's Chinese pieces are single characters, so a piece does not tell whether it continues a word: a segmenter does.
"""

import functools
import importlib.util
import logging
import warnings
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from bert_jax.text.tokenizer import Tokenizer

Segmenter = Literal["none", "spaces", "jieba"]


def check(segmenter: str) -> None:
    """Raises ValueError for one that is unknown, or not installed."""
    if segmenter not in get_args(Segmenter):
        raise ValueError(f"segmenter {segmenter!r}: must be one of {', '.join(get_args(Segmenter))}")
    if segmenter == "jieba" and importlib.util.find_spec("jieba") is None:
        raise ValueError("segmenter jieba needs the package of that name: pip install 'bert_jax[chinese]'")


def segmented(tokenizer: Tokenizer, text: str, segmenter: Segmenter) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a text, int32 [n], and which of them continue a word, bool [n].

    Those do that begin in the word in which the piece before them begins, and those that the tokenizer says so of
    itself ("##ing"), whatever the segmenter makes of them.
    """
    encoding = tokenizer.encode(text)
    words = _words(text) if segmenter == "spaces" else _cut(text, _jieba())
    # A piece can begin with the space before it, and end with the text.
    places = np.arange(len(text))
    begins = np.minimum.accumulate(np.where(words < 0, len(text), places)[::-1])[::-1]
    begins = np.append(begins, len(text))[encoding.offsets[:, 0]]
    of_pieces = np.append(words, -1)[begins]
    continues = tokenizer.continues[encoding.ids].copy()
    continues[1:] |= (of_pieces[1:] == of_pieces[:-1]) & (of_pieces[1:] >= 0)
    return encoding.ids, continues


def _words(text: str) -> np.ndarray:
    """The number of the word that each character is of, int64 [len(text)], between white space, which has -1."""
    space = np.fromiter(map(str.isspace, text), bool, len(text))
    return np.where(space, -1, np.cumsum(space))


def _cut(text: str, segment: Callable[[str], list[str]]) -> np.ndarray:
    """The same of the words that a segmenter cuts a text into; raises ValueError where it leaves out some of it."""
    words = segment(text)
    if "".join(words) != text:
        raise ValueError(f"the segmenter changes the text {text[:60]!r}: its words are {words[:20]}")
    numbers = np.repeat(np.arange(len(words)), [len(word) for word in words])
    return np.where(_words(text) < 0, -1, numbers)


@functools.cache
def _jieba() -> Callable[[str], list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the ways in which a package of 2020 is written
        import jieba
    jieba.setLogLevel(logging.WARNING)  # it says when its dictionary is loaded, in every process
    return jieba.lcut

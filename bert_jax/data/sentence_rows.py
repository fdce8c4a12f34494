"""Rows of one segment that are full of sentences: RoBERTa's input (Liu et al. 2019, arXiv 1907.11692, section 4.2).

FULL-SENTENCES goes on with the next document where one ends, DOC-SENTENCES does not (nor does SpanBERT: Joshi et al.
2019, section 4.2). Nothing is drawn: every token of the text is in one row, in the order of the text.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from bert_jax.data.instances import HEADER_BYTES
from bert_jax.data.store import TokenStore

Rows = Literal["pairs", "full-sentences", "doc-sentences", "stream"]
SPECIAL_TOKENS = 2  # [CLS] ... [SEP]; between documents there is one more
SHORTEST_ROW = SPECIAL_TOKENS + 1


class Row(NamedTuple):
    """Of each document that it has a part of, `tokens[start:stop]` of the store."""

    parts: tuple[tuple[int, int], ...]
    truncated: bool = False  # it ends inside of a sentence, with which the next row begins


def sentence_rows(
    store: TokenStore, first: int, last: int, *, max_seq_length: int, across_documents: bool
) -> Iterator[Row]:
    """The rows of the documents from `first` to one before `last`.

    A row takes whole sentences as long as they fit. One that is longer than a row fills rows of its own, and what is
    left of it begins the next one.

    Args:
      store: the split's documents.
      first, last: documents.
      max_seq_length: tokens of a row with all its special tokens.
      across_documents: whether a row goes on with the next document, behind a separator.
    """
    most = max_seq_length - SPECIAL_TOKENS
    parts: list[tuple[int, int]] = []
    used = 0
    for document in range(first, last):
        begin, end = store.documents[document : document + 2].tolist()
        here = False  # whether the row has something of this document
        for start, stop in pairwise(store.sentences[begin : end + 1].tolist()):
            wanted = stop - start + (1 if parts and not here else 0)
            if parts and used + wanted > most:
                yield Row(tuple(parts))
                parts, used, here = [], 0, False
            while stop - start > most:
                yield Row(((start, start + most),), truncated=True)
                start += most
            used += stop - start + (1 if parts and not here else 0)
            if here:
                parts[-1] = parts[-1][0], stop
            else:
                parts.append((start, stop))
            here = True
        if parts and not across_documents:
            yield Row(tuple(parts))
            parts, used = [], 0
    if parts:
        yield Row(tuple(parts))


class RowPacker:
    """Turns rows of one store into records: uint16 [0, length of the row], then ids.

    Args:
      store: where the rows' tokens are.
      cls_id, sep_id: ids of the special tokens.
    """

    def __init__(self, store: TokenStore, cls_id: int, sep_id: int) -> None:
        self._tokens = store.tokens
        self._cls, self._sep = (np.array([special], self._tokens.dtype).tobytes() for special in (cls_id, sep_id))

    def __call__(self, row: Row) -> bytes:
        """`[CLS] part ([SEP] part ...) [SEP]` behind its header."""
        length = SPECIAL_TOKENS + sum(stop - start for start, stop in row.parts) + len(row.parts) - 1
        parts = self._sep.join(self._tokens[start:stop].tobytes() for start, stop in row.parts)
        return b"".join(((length << 16).to_bytes(HEADER_BYTES, "little"), self._cls, parts, self._sep))

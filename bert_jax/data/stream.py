"""Rows cut from one stream of text, as left-to-right models read it: nothing around a row, and every row full.

Radford et al. 2019 do not say how they cut their text; its documents are joined by `<|endoftext|>`, which their samples
without a prompt begin with (openai/gpt-2 `src/generate_unconditional_samples.py`).
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from bert_jax.data.instances import HEADER_BYTES
from bert_jax.data.sentence_rows import SHORTEST_ROW, Row
from bert_jax.data.store import TokenStore


def stream_rows(store: TokenStore, first: int, last: int, *, max_seq_length: int) -> Iterator[Row]:
    """The rows of the documents from `first` to one before `last`, a separator behind each.

    A row is of `max_seq_length` tokens; the last one is what is left, if that is a row at all (`SHORTEST_ROW`). Of what
    a separator ends or begins, the part behind or before it in the row is empty.
    """
    parts: list[tuple[int, int]] = []
    left = max_seq_length
    bounds = store.sentences[store.documents[first : last + 1]].tolist()
    for start, end in pairwise(bounds):
        while end - start >= left:
            yield Row((*parts, (start, start + left)), truncated=end - start > left)
            parts, start, left = [], start + left, max_seq_length
        parts.append((start, end))
        left -= end - start + 1
        if not left:
            yield Row((*parts, (end, end)))
            parts, left = [], max_seq_length
    if max_seq_length - left >= SHORTEST_ROW:
        yield Row((*parts, (end, end)))


class StreamPacker:
    """Turns rows of one store into records: uint16 [0, length of the row], then ids.

    Args:
      store: where the rows' tokens are.
      sep_id: id of the separator.
    """

    def __init__(self, store: TokenStore, sep_id: int) -> None:
        self._tokens, self._sep = store.tokens, np.array([sep_id], store.tokens.dtype).tobytes()

    def __call__(self, row: Row) -> bytes:
        """`part ([SEP] part ...)` behind its header."""
        parts = self._sep.join(self._tokens[start:stop].tobytes() for start, stop in row.parts)
        length = len(parts) // self._tokens.dtype.itemsize
        return (length << 16).to_bytes(HEADER_BYTES, "little") + parts

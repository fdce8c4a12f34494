"""Texts with labels as padded token arrays in memory."""

from collections.abc import Sequence

import numpy as np

from bert_jax.text.tokenizer import Tokenizer


class Features:
    """A source of single texts or pairs: `[CLS] a [SEP] (b [SEP])`, cut to `max_length` from the end of the longer.

    Args:
        texts: one or two texts per example.
        labels: class of each example, int32 [n].
        tokenizer, max_length: as the encoder wants them.
    """

    def __init__(self, texts: Sequence[tuple[str, ...]], labels: Sequence[int], tokenizer: Tokenizer, max_length: int):
        encodings = [tokenizer.encode_pair(*text, max_length=max_length) for text in texts]
        self.lengths = np.array([len(encoding.ids) for encoding in encodings], np.int32)
        self.labels = np.asarray(labels, np.int32)
        self.max_length = max_length
        self._tokens = np.full((len(encodings), max_length), tokenizer.pad_id, np.int32)
        self._segments = np.zeros((len(encodings), max_length), np.int32)
        for row, encoding in enumerate(encodings):
            self._tokens[row, : len(encoding.ids)] = encoding.ids
            self._segments[row, : len(encoding.ids)] = encoding.segments

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "tokens": self._tokens[indices],
            "segments": self._segments[indices],
            "lengths": self.lengths[indices],
            "label": self.labels[indices],
            "example": np.asarray(indices, np.uint32),
        }

"""Encoded texts with what is to be predicted of them, as padded arrays in memory."""

from collections.abc import Mapping, Sequence

import numpy as np

from bert_jax.text.tokenizer import Encoding, Tokenizer


class Features:
    """A source of encoded rows; an example is one row, or `rows_each` that follow each other.

    Args:
        encodings: of the rows, none longer than `max_length`.
        targets: arrays by the name of the batch's key, with one entry for each row [n, ...].
        tokenizer, max_length: as the encoder wants them.
        rows_each: C, rows of an example.
        truncated: rows that were cut.

    Attributes:
        targets: as given.
        lengths: int32 [n], tokens of each row.
    """

    def __init__(
        self,
        encodings: Sequence[Encoding],
        targets: Mapping[str, np.ndarray],
        tokenizer: Tokenizer,
        max_length: int,
        rows_each: int = 1,
        truncated: int = 0,
    ):
        self.max_length, self.rows_each, self.truncated = max_length, rows_each, truncated
        self.targets = dict(targets)
        self.lengths = np.array([len(encoding.ids) for encoding in encodings], np.int32)
        self._tokens = np.full((len(encodings), max_length), tokenizer.pad_id, np.int32)
        self._segments = np.zeros((len(encodings), max_length), np.int32)
        for row, encoding in enumerate(encodings):
            self._tokens[row, : len(encoding.ids)] = encoding.ids
            self._segments[row, : len(encoding.ids)] = encoding.segments

    def __len__(self) -> int:
        return len(self.lengths) // self.rows_each

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = (np.asarray(indices)[:, None] * self.rows_each + np.arange(self.rows_each)).reshape(-1)
        return {
            "tokens": self._tokens[rows],
            "segments": self._segments[rows],
            "lengths": self.lengths[rows],
            "example": np.asarray(rows, np.uint32),
        } | {name: values[rows] for name, values in self.targets.items()}

    def preview(self, tokenizer: Tokenizer, examples: int = 3) -> list[str]:
        """The first examples as the model reads them, and how much was cut, for the reader of the log."""
        lines = []
        for row in range(min(examples, len(self)) * self.rows_each):
            pieces = " ".join(tokenizer.tokens(self._tokens[row, : self.lengths[row]]))
            wanted = ", ".join(f"{name} {_short(values[row])}" for name, values in self.targets.items())
            lines.append(f"example {row // self.rows_each}: {pieces if len(pieces) <= 300 else pieces[:297] + '...'}")
            lines.append(f"  {self.lengths[row]} tokens, {wanted}")
        share = self.truncated / max(len(self.lengths), 1)
        lines.append(
            f"{share:.1%} of the rows were cut to {self.max_length} tokens; mean length {self.lengths.mean():.1f}"
        )
        return lines


def _short(value: np.ndarray | np.generic) -> str:
    return np.array2string(np.asarray(value), threshold=16, edgeitems=8, separator=" ")


def encode_texts(texts: Sequence[tuple[str, ...]], tokenizer: Tokenizer, max_length: int) -> tuple[list[Encoding], int]:
    """`[CLS] a [SEP] (b [SEP])` of one or two texts each, cut to `max_length` tokens from the end of the longer
    (run_classifier.py:386-443); and how many were cut."""
    encodings = [tokenizer.encode_pair(*text, max_length=max_length) for text in texts]
    full = [i for i, encoding in enumerate(encodings) if len(encoding.ids) == max_length]
    longer = [tokenizer.encode_pair(*texts[i], max_length=max_length + 1) for i in full]
    return encodings, sum(len(encoding.ids) > max_length for encoding in longer)

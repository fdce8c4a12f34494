"""Tokenized documents as three flat files: one document is a slice, and memory does not grow with the corpus."""

import mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np

TOKENS, SENTENCES, DOCUMENTS = "tokens.bin", "sentences.bin", "documents.bin"
DOCUMENTS_AT_ONCE = 1024  # that are copied, some megabytes


def token_dtype(vocab_size: int, flagged: bool = False) -> np.dtype:
    """The narrowest little-endian dtype that holds every id: uint16 up to 65,536 pieces, else uint32; `flagged`, with
    a bit to spare."""
    return np.dtype("<u2") if vocab_size <= 1 << (15 if flagged else 16) else np.dtype("<u4")


def with_flags(tokens: np.ndarray, flags: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Ids with a yes or no each, in the upper bit."""
    return tokens.astype(dtype) | (flags.astype(dtype) << (8 * dtype.itemsize - 1))


def without_flags(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse: ids, and bool."""
    upper = tokens.dtype.type(1 << (8 * tokens.dtype.itemsize - 1))
    return tokens & (upper - 1), tokens >= upper


class Tokenized(NamedTuple):
    """Some tokenized documents, none of them empty."""

    tokens: np.ndarray  # int [tokens] ids, all sentences one after the other, with or without flags
    sentence_lengths: np.ndarray  # int [sentences] tokens in each, at least 1
    document_lengths: np.ndarray  # int [documents] sentences in each, at least 1


class TokenStore(NamedTuple):
    """Tokenized documents, memory-mapped: sentence s is `tokens[sentences[s] : sentences[s + 1]]`."""

    tokens: np.ndarray  # uint16 or uint32 [tokens] ids without special tokens
    sentences: np.ndarray  # int64 [sentences + 1] where each sentence starts in `tokens`, then the end of the last
    documents: np.ndarray  # int64 [documents + 1] where each document starts in `sentences`, then the end of the last

    @classmethod
    def open(cls, folder: Path, dtype: np.dtype) -> "TokenStore":
        """Maps a finished store; pages are read from disk as they are needed."""
        arrays = []
        for name, kind in ((TOKENS, dtype), (SENTENCES, "<i8"), (DOCUMENTS, "<i8")):
            with (folder / name).open("rb") as file:
                # frombuffer, not np.memmap, whose slicing is several times slower than a plain array's.
                arrays.append(np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), kind))
        return cls(*arrays)

    def release(self) -> None:
        """Gives the pages read so far of an opened store back to the system, which keeps them in its file cache.

        Without it, random segments would in time map the whole store into the process.
        """
        for array in self:
            array.base.obj.madvise(mmap.MADV_DONTNEED)


class TokenStoreWriter:
    """Appends tokenized documents to a new store in `folder`; a context manager that closes its files."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        folder.mkdir(parents=True)
        self._ends = np.zeros(2, "<i8")  # tokens and sentences so far
        self._dtype = dtype
        self._files = [(folder / name).open("wb") for name in (TOKENS, SENTENCES, DOCUMENTS)]
        for file in self._files[1:]:
            file.write(np.zeros(1, "<i8").tobytes())

    def append(self, documents: Tokenized) -> None:
        """Adds documents after those already there."""
        token_file, sentence_file, document_file = self._files
        token_file.write(documents.tokens.astype(self._dtype).tobytes())
        sentence_file.write((self._ends[0] + np.cumsum(documents.sentence_lengths, dtype="<i8")).tobytes())
        document_file.write((self._ends[1] + np.cumsum(documents.document_lengths, dtype="<i8")).tobytes())
        self._ends += len(documents.tokens), len(documents.sentence_lengths)

    def extend(self, store: TokenStore) -> None:
        """Adds the documents of another store."""
        for first in range(0, len(store.documents) - 1, DOCUMENTS_AT_ONCE):
            documents = store.documents[first : first + DOCUMENTS_AT_ONCE + 1]
            sentences = store.sentences[documents[0] : documents[-1] + 1]
            tokens = store.tokens[sentences[0] : sentences[-1]]
            self.append(Tokenized(tokens, np.diff(sentences), np.diff(documents)))

    def __enter__(self) -> "TokenStoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

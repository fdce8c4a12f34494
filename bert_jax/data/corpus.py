"""A pre-training corpus on disk: built from documents in bounded memory, read back in whole batches.

A corpus folder holds `card.json`, `tokenizer/` and ArrayRecord shards `train-00000-of-0000N.array_record` (and
`valid-...`). A record is little-endian: uint16 pair label, uint16 length of segment A with its [CLS] and [SEP], then
the ids of `[CLS] A [SEP] B [SEP]` in the card's dtype; or of a row of sentences, which is segment A and label 0 alone,
with a [SEP] between documents. Where a segmenter found the words, the upper bit of an id says that its token continues
the word before it. `train-lengths.bin` holds the tokens of each instance, uint16, so that the lengths of a batch are
known without its records. The card is written last and the folder appears by one rename, so a folder with a card is a
finished corpus.
"""

import contextlib
import json
import shutil
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from bert_jax.data.card import find_warnings, read_card, split_card
from bert_jax.data.documents import Document, as_document
from bert_jax.data.instances import HEADER_BYTES, SHORTEST_SEQUENCE
from bert_jax.data.sentence_rows import SHORTEST_ROW
from bert_jax.data.shards import Shards
from bert_jax.data.stages import (
    AS_THE_ORIGINAL,
    TOKENIZER,
    TRAIN,
    VALID,
    CorpusConfig,
    Divisible,
    Progress,
    split_by_document,
    tokenize_all,
    tokenize_parts,
    write_all,
)
from bert_jax.data.storage import LocalFolder, RemoteFolder, is_url
from bert_jax.data.store import token_dtype, without_flags
from bert_jax.data.workers import InOrder, cores, in_order, worker_pool
from bert_jax.text import tokenizer as tokenizers

CARD = "card.json"
REPLACEMENTS = 50  # drawn for one damaged instance before the corpus is given up
WARN_ALWAYS = 10  # damaged instances, after which only powers of two are told


def build_corpus(
    documents: Iterable[Document | str | Sequence[str]],
    tokenizer: tokenizers.Tokenizer,
    output: str | Path,
    config: CorpusConfig = AS_THE_ORIGINAL,
    *,
    valid: Iterable[Document | str | Sequence[str]] | None = None,
    inputs: Mapping[str, list[dict]] | None = None,
    workers: int | None = None,
    distribute: Callable[[Path], InOrder] | None = None,
    progress: Progress | None = None,
) -> dict:
    """Builds the corpus folder `output` and returns its card.

    The result depends on documents, tokenizer and config only, to the byte, not on the number of workers. Memory holds
    a few chunks of text a worker and the largest document; temporary token files, 2 or 4 bytes a token, are kept beside
    `output` meanwhile. The original shuffles documents and instances once (create_pretraining_data.py:208, 221): here
    random next sentences are drawn uniformly and the loader shuffles instances over the whole corpus, so the order on
    disk does not matter.

    Args:
      documents: of the training split; a str is plain text, a list of str its paragraphs.
      tokenizer: saved into the folder.
      output: must not exist.
      config: lengths, repeats, seed.
      valid: documents of their own for the held-out split; otherwise `config.valid_fraction` draws it from `documents`.
      inputs: per split, what the card says of where the documents came from (`TextFiles.describe()`).
      workers: processes; None takes all cores, 1 stays in this process.
      distribute: gives the work to other machines (`data.beam`), which must see the folder `output` is in, and which
        read the documents themselves: `TextFiles` or `TfdsText`. The bytes are the same.
      progress: called with text bytes while "reading", then with tokens while "writing".

    Raises:
      FileExistsError: `output` exists.
      ValueError: a split without text; both ways to hold out; a held-out file that is a training file too.
      WorkerDied: a worker process was killed.
    """
    output, workers = Path(output), workers or cores()
    if output.exists():
        raise FileExistsError(f"{output} exists and is not overwritten; remove it or choose another output folder")
    if valid is not None and config.valid_fraction:
        raise ValueError("held-out files and valid_fraction are both given; choose one way to hold out documents")
    _check_disjoint(inputs or {})

    output.parent.mkdir(parents=True, exist_ok=True)
    # Everything is made inside a hidden sibling, on the same disk as the output, and moved there by one rename.
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.building-", dir=output.parent))
    try:
        finished = work / "corpus"
        finished.mkdir()
        tokenizer.save(finished / TOKENIZER)
        with worker_pool(workers if distribute is None else 1) as pool:
            run = partial(in_order, pool, 2 * workers) if distribute is None else distribute(work)
            counts = _tokenized(documents, valid, tokenizer, work, config, run, progress, distribute is not None)
            written = write_all(counts, tokenizer, work, finished, config, run, progress)
        card = _card(counts, written, tokenizer, config, inputs or {})
        (finished / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        finished.rename(output)
    finally:
        shutil.rmtree(work)
    return card


def _tokenized(
    documents: Iterable,
    valid: Iterable | None,
    tokenizer: tokenizers.Tokenizer,
    work: Path,
    config: CorpusConfig,
    run: InOrder,
    progress: Progress | None,
    elsewhere: bool,
) -> dict[str, Counter]:
    """First stage: the counts of the splits whose token stores are in `work` now."""
    folder, dtype = work / "corpus" / TOKENIZER, token_dtype(tokenizer.vocab_size, config.segmenter != "none")
    if elsewhere:
        for source in (documents, valid):
            if not isinstance(source, Divisible | None):
                raise ValueError(f"workers elsewhere cannot read a {type(source).__name__}: give TextFiles or TfdsText")
        counts = tokenize_parts(documents, valid, folder, work, dtype, config, run, progress)
    else:
        given = ((VALID, as_document(document)) for document in valid or ())
        everything = chain(split_by_document(documents, config), given)
        counts = tokenize_all(everything, folder, work, dtype, config, run, progress)
    if VALID not in counts and (valid is not None or config.valid_fraction):
        raise ValueError(
            "the held-out split is empty: no document was drawn; raise valid_fraction or give held-out files"
        )
    if TRAIN not in counts:
        raise ValueError("the training split has no text: no document with at least one token")
    return counts


def _check_disjoint(inputs: Mapping[str, list[dict]]) -> None:
    train = {file["sha256"]: file["path"] for file in inputs.get(TRAIN, ()) if "sha256" in file}
    for file in inputs.get(VALID, ()):
        if file.get("sha256") in train:
            same = train[file["sha256"]]
            raise ValueError(f"held-out file {file['path']} has the same content as training file {same}")


def _card(
    counts: Mapping[str, Counter],
    written: Mapping[str, dict],
    tokenizer: tokenizers.Tokenizer,
    config: CorpusConfig,
    inputs: Mapping[str, list[dict]],
) -> dict:
    splits = {split: split_card(count, config.max_seq_length) | written[split] for split, count in counts.items()}
    labels = config.pairs if config.rows == "pairs" else None
    return {
        **asdict(config),
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
        "dtype": token_dtype(tokenizer.vocab_size, config.segmenter != "none").name,
        "inputs": {split: list(files) for split, files in inputs.items()},
        "splits": splits,
        "warnings": [warning for split, card in splits.items() for warning in find_warnings(split, card, labels)],
    }


class Corpus:
    """One split of a finished corpus folder: a source of whole batches, picklable.

    Args:
      folder: made by `build_corpus`; or the URL of a copy of it (`gs://`, `s3://`, `https://`, ...), whose files are
        fetched as they are needed (`data.storage`).
      split: "train" or "valid".
      skip_damaged: read another instance in the place of a damaged one, and warn of it. Which one is a function of the
        damaged one's number, so a run is still the same each time. It is as long, if the corpus has a file of lengths.
      cache: where fetched files are kept; None for `storage.cache_folder()`.
      cache_bytes: of that folder at most; None for no limit.

    Attributes:
      replaced: the instances that were found damaged so far, each with the one that is read instead.

    Raises:
      FileNotFoundError: not a corpus folder, or a shard is missing.
      ValueError: the corpus has no such split; a shard has not the size it was written with; a damaged card.
      OSError: a URL that cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = TRAIN,
        *,
        skip_damaged: bool = False,
        cache: Path | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.split, self.skip_damaged = split, skip_damaged
        self.replaced: dict[int, int] = {}
        if is_url(folder):
            self.folder: LocalFolder | RemoteFolder = RemoteFolder(str(folder), CARD, cache, cache_bytes)
        else:
            self.folder = LocalFolder(folder)
            if not (Path(folder) / CARD).is_file():
                raise FileNotFoundError(
                    f"{folder} is not a finished corpus folder: no {CARD} in it; tools/prepare_corpus.py makes one"
                )
        self.card = read_card(self.folder.file(CARD), self.folder.name(CARD))
        if split not in self.card["splits"]:
            raise ValueError(
                f"corpus {self.folder} has no split {split!r}, only {', '.join(self.card['splits'])}; a held-out split "
                "is made with --valid-fraction or --valid"
            )
        shards = self.card["splits"][split]["shards"]
        if isinstance(self.folder, LocalFolder):
            for shard in shards:
                self.folder.file(shard["file"], None if skip_damaged else shard.get("bytes"))
        self._shards = Shards(self.folder, shards)
        self._prepare()

    def _prepare(self) -> None:
        self._lengths: np.ndarray | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lengths", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._prepare()

    @property
    def max_length(self) -> int:
        """Tokens in a padded row."""
        return self.card["max_seq_length"]

    @property
    def has_pairs(self) -> bool:
        """Whether instances are pairs of segments with a label, and not rows of one segment."""
        return self.card.get("rows", "pairs") == "pairs"

    @property
    def pairs(self) -> str:
        """What the label of a pair says: `next` or `order` (`data.instances.Pairs`)."""
        return self.card.get("pairs", "next")

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer the corpus was made with."""
        folder = None
        for name in (*tokenizers.FILES, "tokenizer_config.json"):
            with contextlib.suppress(FileNotFoundError):
                folder = self.folder.file(f"{TOKENIZER}/{name}").parent
        if folder is None:
            raise FileNotFoundError(f"{self.folder.name(TOKENIZER)} holds no tokenizer")
        return tokenizers.load(folder)

    def __len__(self) -> int:
        return len(self._shards)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """One batch, padded to `max_length`.

        Args:
          indices: integer [B], 0 to len - 1, in any order, repeats allowed.

        Returns:
          tokens int32 [B, L], segments int32 [B, L] (padding 0), lengths int32 [B], pair_label int32 [B] (1 = random
          next, or swapped; 0 of what is no pair), example uint32 [B] (the indices); where a segmenter found the
          words, continues bool [B, L], True where a token continues the word before it.

        Raises:
          IndexError: an index outside of the split.
          ValueError: a damaged record, named with its file and its index there; with `skip_damaged`, if what could be
            read instead is damaged, too.
          FileNotFoundError, OSError: a shard that is not there, or cannot be fetched.
        """
        indices = self._inside(indices)
        while True:
            places = indices
            if self.replaced:
                places = np.array([self.replaced.get(i, i) for i in indices.tolist()], np.int64)
            batch, faults = self._read(places)
            if not faults:
                return batch | {"example": indices.astype(np.uint32)}
            for row, what in faults.items():
                self._replace(int(indices[row]), int(places[row]), what)

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of each instance, int32 [B]: the `lengths` of `read`, without its records.

        They are in a file of the split; of a corpus that was built before there was one, the records tell them.

        Raises:
          IndexError: an index outside of the split.
          ValueError: a file of lengths that is not as long as the split; a damaged record, as in `read`.
        """
        if "lengths" not in self.card["splits"][self.split]:
            return self.read(indices)["lengths"]
        return self._known_lengths()[self._inside(indices)].astype(np.int32)

    def _known_lengths(self) -> np.ndarray:
        """Of every instance, mapped from its file."""
        if self._lengths is None:
            name = self.card["splits"][self.split]["lengths"]
            path = self.folder.file(name)
            if (size := path.stat().st_size) != 2 * len(self):
                name = self.folder.name(name)
                raise ValueError(f"{name} is damaged: {size} bytes for {len(self)} instances; build the corpus again")
            self._lengths = np.memmap(path, "<u2", "r")
        return self._lengths

    def _inside(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"indices {indices.min()} to {indices.max()}: {self.split} has 0 to {len(self) - 1}")
        return indices

    def _read(self, places: np.ndarray) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """The arrays of a batch without `example`; of damaged records what is wrong with them, by their row."""
        records, faults = self._shards.read(places)
        return ({}, faults) if faults else self._decoded(places, records)

    def _decoded(self, places: np.ndarray, records: list[bytes]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        faults: dict[int, str] = {}

        def check(good: np.ndarray, what: str) -> None:
            faults.update((row, what) for row in np.flatnonzero(~good).tolist())

        dtype = np.dtype(self.card["dtype"]).newbyteorder("<")
        sizes = np.fromiter(map(len, records), np.int64, len(records))
        lengths = (sizes - HEADER_BYTES) // dtype.itemsize
        if "lengths" in self.card["splits"][self.split]:
            known = self._known_lengths()[places]
            check(lengths == known, "its length is not the one in the file of lengths")
        shortest = SHORTEST_SEQUENCE if self.has_pairs else SHORTEST_ROW
        fits = (lengths >= shortest) & (lengths <= self.max_length)
        check(fits, f"its length is not {shortest} to {self.max_length} tokens")
        check((sizes - HEADER_BYTES) % dtype.itemsize == 0, "its size is no whole number of ids")
        if faults:
            return {}, faults

        # One boolean assignment pads the whole batch: the headers are the first columns of the same rectangle.
        header = HEADER_BYTES // dtype.itemsize
        rectangle = np.zeros((len(records), header + self.max_length), dtype)
        rectangle[np.arange(rectangle.shape[1]) < (header + lengths)[:, None]] = np.frombuffer(b"".join(records), dtype)
        pair_label, first = np.ascontiguousarray(rectangle[:, :header]).view("<u2").astype(np.int32).T
        column = np.arange(self.max_length)
        real = column < lengths[:, None]
        ids, words = rectangle[:, header:], {}
        if self.card.get("segmenter", "none") != "none":
            ids, continues = without_flags(ids)
            words["continues"] = real & continues
        tokens = np.where(real, ids, self.card["pad_id"]).astype(np.int32)
        check((tokens < self.card["vocab_size"]).all(axis=1), "an id is not in the vocabulary")
        of_pair = (pair_label <= 1) & (first > 2) & (first < lengths - 1)
        check(of_pair if self.has_pairs else (pair_label == 0) & (first == lengths), "its header is impossible")
        return {
            "tokens": tokens,
            "segments": (real & (column >= first[:, None])).astype(np.int32),
            "lengths": lengths.astype(np.int32),
            "pair_label": pair_label,
        } | words, faults

    def _replace(self, index: int, place: int, what: str) -> None:
        """Finds an instance to be read for `index`, as what was read from `place` is damaged."""
        message = f"{self._shards.place(place)} (example {place}) is damaged: {what}"
        if not self.skip_damaged:
            raise ValueError(f"{message}; build the corpus again, or have such examples replaced (skip_damaged)")
        with self._lock:
            if self.replaced.get(index, index) != place:
                return  # another thread was faster
            others = (self._other(index, draw) for draw in range(REPLACEMENTS))
            other = next((other for other in others if not self._read(np.array([other]))[1]), None)
            if other is None:
                raise ValueError(f"{message}; so are {REPLACEMENTS} others that would be read for example {index}")
            self.replaced[index] = other
            count = len(self.replaced)
        if count <= WARN_ALWAYS or count.bit_count() == 1:
            warnings.warn(f"{message}; example {other} is read instead ({count} so far)", stacklevel=3)

    def _other(self, index: int, draw: int) -> int:
        """An instance to be read for `index`: one of the same length, since other processes know of that alone."""
        start = int(np.random.default_rng((index, draw)).integers(len(self)))
        if "lengths" not in self.card["splits"][self.split]:
            return start
        lengths, block = self._known_lengths(), 1 << 16
        for first in (*range(start, len(self), block), *range(0, start, block)):
            alike = first + np.flatnonzero(lengths[first : first + block] == lengths[index])
            if len(alike := alike[alike != index]):
                return int(alike[0])
        raise ValueError(f"example {index} is damaged, and no other one has its {lengths[index]} tokens")

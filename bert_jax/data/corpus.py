"""A pre-training corpus on disk: built from documents in bounded memory, read back in whole batches.

A corpus folder holds `card.json`, `tokenizer/` and ArrayRecord shards `train-00000-of-0000N.array_record` (and
`valid-...`). A record is little-endian: uint16 pair label, uint16 length of segment A with its [CLS] and [SEP], then
the ids of `[CLS] A [SEP] B [SEP]` in the card's dtype. The card is written last and the folder appears by one rename,
so a folder with a card is a finished corpus.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from bert_jax.data.card import find_warnings, split_card
from bert_jax.data.documents import Document, as_document
from bert_jax.data.instances import HEADER_BYTES, SHORTEST_SEQUENCE, document_random
from bert_jax.data.store import TokenStore, TokenStoreWriter, token_dtype
from bert_jax.data.workers import InOrder, Shard, cores, in_order, shard_ranges, tokenize, worker_pool, write_shard
from bert_jax.text import tokenizer as tokenizers

CARD, TOKENIZER = "card.json", "tokenizer"
TRAIN, VALID = "train", "valid"
CHUNK_CHARACTERS = 1 << 18  # text handed to a worker at once: large against its overhead, small against memory

Progress = Callable[[str, int, int | None], None]  # stage ("reading" | "writing"), done, total or None if not known


@dataclass(frozen=True)
class CorpusConfig:
    """How documents become instances. The defaults are the original's (create_pretraining_data.py:44-66)."""

    max_seq_length: int = 128  # tokens of an instance, with [CLS] and both [SEP]
    dupe_factor: int = 10  # times the whole text is made into instances, with new draws each time
    short_seq_prob: float = 0.1  # chance that a document is made into instances of a shorter length
    seed: int = 12345  # of all draws: held-out documents, splits, random next sentences, truncation
    valid_fraction: float = 0.0  # chance of each document to be held out as the valid split
    language: str = "en"  # of the text, for sentence splitting

    def __post_init__(self) -> None:
        if not SHORTEST_SEQUENCE <= self.max_seq_length < 1 << 16:
            raise ValueError(f"max_seq_length {self.max_seq_length}: must be {SHORTEST_SEQUENCE} to 65535 tokens")
        if self.dupe_factor < 1:
            raise ValueError(f"dupe_factor {self.dupe_factor}: must be at least 1")
        if not 0 <= self.short_seq_prob <= 1:
            raise ValueError(f"short_seq_prob {self.short_seq_prob}: must be between 0 and 1")
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(f"valid_fraction {self.valid_fraction}: must be at least 0 and less than 1")


def build_corpus(
    documents: Iterable[Document | str | Sequence[str]],
    tokenizer: tokenizers.Tokenizer,
    output: str | Path,
    config: CorpusConfig = CorpusConfig(),
    *,
    valid: Iterable[Document | str | Sequence[str]] | None = None,
    inputs: Mapping[str, list[dict]] | None = None,
    workers: int | None = None,
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
      progress: called with text bytes while "reading", then with tokens while "writing".

    Raises:
      FileExistsError: `output` exists.
      ValueError: a split without text; both ways to hold out; a held-out file that is a training file too.
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
        with worker_pool(workers) as pool:
            run = partial(in_order, pool, 2 * workers)
            chunks = _chunks(_split_by_document(documents, valid, config))
            counts = _tokenize_all(chunks, tokenizer, work, config, run, progress)
            if VALID not in counts and (valid is not None or config.valid_fraction):
                raise ValueError(
                    "the held-out split is empty: no document was drawn; raise valid_fraction or give held-out files"
                )
            if TRAIN not in counts:
                raise ValueError("the training split has no text: no document with at least one token")
            shards = _write_all(counts, tokenizer, work, config, run, progress)
        card = _card(counts, shards, tokenizer, config, inputs or {})
        (finished / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        finished.rename(output)
    finally:
        shutil.rmtree(work)
    return card


def _check_disjoint(inputs: Mapping[str, list[dict]]) -> None:
    train = {file["sha256"]: file["path"] for file in inputs.get(TRAIN, ()) if "sha256" in file}
    for file in inputs.get(VALID, ()):
        if file.get("sha256") in train:
            same = train[file["sha256"]]
            raise ValueError(f"held-out file {file['path']} has the same content as training file {same}")


def _split_by_document(
    documents: Iterable, valid: Iterable | None, config: CorpusConfig
) -> Iterator[tuple[str, Document]]:
    for index, document in enumerate(documents):
        held_out = document_random(config.seed, "held out", 0, index).random() < config.valid_fraction
        yield VALID if held_out else TRAIN, as_document(document)
    for document in valid or ():
        yield VALID, as_document(document)


def _chunks(documents: Iterable[tuple[str, Document]]) -> Iterator[tuple[str, list[Document]]]:
    """(split, some of its documents, CHUNK_CHARACTERS or a little more), each split in the order of the input."""
    waiting: dict[str, list[Document]] = {TRAIN: [], VALID: []}
    characters = Counter()
    for split, document in documents:
        waiting[split].append(document)
        characters[split] += sum(map(len, document.paragraphs))
        if characters[split] >= CHUNK_CHARACTERS:
            yield split, waiting[split]
            waiting[split], characters[split] = [], 0
    yield from ((split, rest) for split, rest in waiting.items() if rest)


def _tokenize_all(
    chunks: Iterator[tuple[str, list[Document]]],
    tokenizer: tokenizers.Tokenizer,
    work: Path,
    config: CorpusConfig,
    run: InOrder,
    progress: Progress | None,
) -> dict[str, Counter]:
    """First stage: documents to one token store per split. Returns the counts of each split that has tokens."""
    dtype = token_dtype(tokenizer.vocab_size)
    counts = {split: Counter() for split in (TRAIN, VALID)}
    done = 0
    with ExitStack() as files:
        stores = {split: files.enter_context(TokenStoreWriter(work / split, dtype)) for split in counts}
        for split, found, chunk_counts in run(partial(tokenize, work / "corpus" / TOKENIZER, config.language), chunks):
            stores[split].append(found)
            counts[split].update(chunk_counts)
            done += chunk_counts["text_bytes"]
            if progress:
                progress("reading", done, None)
    return {split: count for split, count in counts.items() if count["tokens"]}


def _write_all(
    counts: Mapping[str, Counter],
    tokenizer: tokenizers.Tokenizer,
    work: Path,
    config: CorpusConfig,
    run: InOrder,
    progress: Progress | None,
) -> dict[str, list[dict]]:
    """Second stage: token stores to shards; adds to the counts. Returns name and instances of each shard."""
    dtype = token_dtype(tokenizer.vocab_size)
    tasks = []
    for split in counts:
        ranges = shard_ranges(TokenStore.open(work / split, dtype), config.dupe_factor)
        for number, (first, last) in enumerate(ranges):
            path = work / "corpus" / f"{split}-{number:05d}-of-{len(ranges):05d}.array_record"
            tasks.append(Shard(split, work / split, dtype.str, first, last, path))
    write = partial(
        write_shard,
        special_ids=(tokenizer.cls_id, tokenizer.sep_id),
        max_seq_length=config.max_seq_length,
        dupe_factor=config.dupe_factor,
        short_seq_prob=config.short_seq_prob,
        seed=config.seed,
    )
    shards: dict[str, list[dict]] = {split: [] for split in counts}
    done, total = 0, sum(count["tokens"] for count in counts.values()) * config.dupe_factor
    if progress:
        progress("writing", done, total)
    for task, (tokens, shard_counts) in zip(tasks, run(write, tasks), strict=True):
        counts[task.split].update(shard_counts)
        shards[task.split].append({"file": task.path.name, "instances": shard_counts["instances"]})
        done += tokens
        if progress:
            progress("writing", done, total)
    return shards


def _card(
    counts: Mapping[str, Counter],
    shards: Mapping[str, list[dict]],
    tokenizer: tokenizers.Tokenizer,
    config: CorpusConfig,
    inputs: Mapping[str, list[dict]],
) -> dict:
    splits = {split: split_card(count, config.max_seq_length, shards[split]) for split, count in counts.items()}
    return {
        **asdict(config),
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "inputs": {split: list(files) for split, files in inputs.items()},
        "splits": splits,
        "warnings": [warning for split, card in splits.items() for warning in find_warnings(split, card)],
    }


class Corpus:
    """One split of a finished corpus folder: a source of whole batches, picklable.

    Args:
      folder: made by `build_corpus`.
      split: "train" or "valid".

    Raises:
      FileNotFoundError: not a corpus folder, or a shard is missing.
      ValueError: the corpus has no such split.
    """

    def __init__(self, folder: str | Path, split: str = TRAIN) -> None:
        self.folder, self.split = Path(folder), split
        card_file = self.folder / CARD
        if not card_file.is_file():
            raise FileNotFoundError(
                f"{self.folder} is not a finished corpus folder: no {CARD} in it; tools/prepare_corpus.py makes one"
            )
        self.card: dict = json.loads(card_file.read_text(encoding="utf-8"))
        if split not in self.card["splits"]:
            raise ValueError(
                f"corpus {self.folder} has no split {split!r}, only {', '.join(self.card['splits'])}; a held-out split "
                "is made with --valid-fraction or --valid"
            )
        shards = self.card["splits"][split]["shards"]
        self._paths = [self.folder / shard["file"] for shard in shards]
        for path in self._paths:
            if not path.is_file():
                raise FileNotFoundError(f"corpus {self.folder} is incomplete: {path.name} is missing")
        self._ends = np.cumsum([shard["instances"] for shard in shards])
        self._readers: list[ArrayRecordReader | None] = [None] * len(shards)

    @property
    def max_length(self) -> int:
        """Tokens in a padded row."""
        return self.card["max_seq_length"]

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer the corpus was made with."""
        return tokenizers.load(self.folder / TOKENIZER)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_readers": [None] * len(self._paths)}  # readers hold open files

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """One batch, padded to `max_length`.

        Args:
          indices: integer [B], 0 to len - 1, in any order, repeats allowed.

        Returns:
          tokens int32 [B, L], segments int32 [B, L] (padding 0), lengths int32 [B], pair_label int32 [B] (1 = random
          next), example uint32 [B] (the indices).

        Raises:
          IndexError: an index outside of the split.
          ValueError: a damaged record, named with its file and its index there.
        """
        indices = np.asarray(indices)
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"indices {indices.min()} to {indices.max()}: {self.split} has 0 to {len(self) - 1}")
        records = self._records(indices)
        dtype = np.dtype(self.card["dtype"]).newbyteorder("<")
        sizes = np.fromiter(map(len, records), np.int64, len(records))
        self._check(indices, (sizes - HEADER_BYTES) % dtype.itemsize == 0, "its size is no whole number of ids")
        lengths = (sizes - HEADER_BYTES) // dtype.itemsize
        fits = (lengths >= SHORTEST_SEQUENCE) & (lengths <= self.max_length)
        self._check(indices, fits, f"its length is not {SHORTEST_SEQUENCE} to {self.max_length} tokens")

        # One boolean assignment pads the whole batch: the headers are the first columns of the same rectangle.
        header = HEADER_BYTES // dtype.itemsize
        rectangle = np.zeros((len(records), header + self.max_length), dtype)
        rectangle[np.arange(rectangle.shape[1]) < (header + lengths)[:, None]] = np.frombuffer(b"".join(records), dtype)
        pair_label, first = np.ascontiguousarray(rectangle[:, :header]).view("<u2").astype(np.int32).T
        column = np.arange(self.max_length)
        real = column < lengths[:, None]
        tokens = np.where(real, rectangle[:, header:], self.card["pad_id"]).astype(np.int32)
        self._check(indices, (pair_label <= 1) & (first > 2) & (first < lengths - 1), "its header is impossible")
        self._check(indices, (tokens < self.card["vocab_size"]).all(axis=1), "an id is not in the vocabulary")
        return {
            "tokens": tokens,
            "segments": (real & (column >= first[:, None])).astype(np.int32),
            "lengths": lengths.astype(np.int32),
            "pair_label": pair_label,
            "example": indices.astype(np.uint32),
        }

    def _records(self, indices: np.ndarray) -> list[bytes]:
        # The package's ArrayRecordDataSource starts threads for every batch, which costs more than the reading: 3 times
        # slower for batches of 32, 1.4 times for 256 (24 shards). So its readers are used directly.
        shards = np.searchsorted(self._ends, indices, side="right")
        records = np.empty(len(indices), object)
        for shard in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == shard)
            records[rows] = self._read_shard(shard, indices[rows] - self._start(shard))
        return records.tolist()

    def _start(self, shard: int) -> int:
        return int(self._ends[shard - 1]) if shard else 0

    def _read_shard(self, shard: int, positions: np.ndarray) -> list[bytes]:
        try:
            return self._reader(shard).read(positions.tolist())
        except Exception as error:  # of several kinds, and none names a record: so read them one by one
            if len(positions) > 1:
                return [self._read_shard(shard, one)[0] for one in np.split(positions, len(positions))]
            raise self._damaged(self._start(shard) + int(positions[0]), str(error)) from error

    def _reader(self, shard: int) -> ArrayRecordReader:
        if self._readers[shard] is None:
            # Random access: no reading ahead, and a buffer of a few records instead of a megabyte a shard.
            options = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}
            self._readers[shard] = ArrayRecordReader(str(self._paths[shard]), **options)
        return self._readers[shard]

    def _check(self, indices: np.ndarray, good: np.ndarray, what: str) -> None:
        if not good.all():
            raise self._damaged(int(indices[np.argmin(good)]), what)

    def _damaged(self, index: int, what: str) -> ValueError:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return ValueError(
            f"{self._paths[shard]}, record {index - self._start(shard)} (example {index}) is damaged: {what}; "
            "build the corpus again"
        )

"""The two stages of a corpus build: documents to token stores, and token stores to shards of instances."""

import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np

from bert_jax.data.documents import Document, as_document
from bert_jax.data.instances import SHORTEST_SEQUENCE, Pairs, document_random
from bert_jax.data.sentence_rows import Rows
from bert_jax.data.store import TokenStore, TokenStoreWriter, token_dtype
from bert_jax.data.workers import InOrder, Shard, shard_ranges, tokenize, write_shard
from bert_jax.text import segmentation
from bert_jax.text.segmentation import Segmenter
from bert_jax.text.tokenizer import Tokenizer

TRAIN, VALID = "train", "valid"
TOKENIZER = "tokenizer"
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
    segmenter: Segmenter = "none"
    """Who says where words end, for whole-word masking. none: the tokenizer's pieces. spaces: those of the text, which
    was segmented before where its language has none. jieba: the package of that name, for Chinese."""
    rows: Rows = "pairs"
    """What an instance is. pairs: BERT's two segments for next sentence prediction. full-sentences: RoBERTa's rows of
    one segment, filled with sentences, the next document behind a [SEP] where one ends (Liu et al. 2019, section 4.2).
    doc-sentences: the same, but a row ends with its document. stream: GPT-2's rows, cut from the text wherever they are
    full, with a [SEP] behind each document and no [CLS]. Nothing is drawn for the latter three: they need dupe_factor 1
    and short_seq_prob 0."""
    pairs: Pairs = "next"
    """What the label of a pair says. next: whether the second segment is from elsewhere, for NSP. order: whether two
    consecutive segments were swapped, for ALBERT's SOP; as in its code, a second segment from elsewhere still stands
    beside a single sentence, with the same label (of enwiki, 9 % of the pairs)."""

    def __post_init__(self) -> None:
        if not SHORTEST_SEQUENCE <= self.max_seq_length < 1 << 16:
            raise ValueError(f"max_seq_length {self.max_seq_length}: must be {SHORTEST_SEQUENCE} to 65535 tokens")
        if self.dupe_factor < 1:
            raise ValueError(f"dupe_factor {self.dupe_factor}: must be at least 1")
        if not 0 <= self.short_seq_prob <= 1:
            raise ValueError(f"short_seq_prob {self.short_seq_prob}: must be between 0 and 1")
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(f"valid_fraction {self.valid_fraction}: must be at least 0 and less than 1")
        segmentation.check(self.segmenter)
        if self.pairs not in get_args(Pairs):
            raise ValueError(f"pairs {self.pairs!r}: must be one of {', '.join(get_args(Pairs))}")
        if self.rows != "pairs" and self.pairs != "next":
            raise ValueError(f"pairs {self.pairs}: rows {self.rows} are no pairs, set rows to pairs")
        if self.rows not in get_args(Rows):
            raise ValueError(f"rows {self.rows!r}: must be one of {', '.join(get_args(Rows))}")
        if self.rows != "pairs" and (self.dupe_factor != 1 or self.short_seq_prob):
            raise ValueError(
                f"rows {self.rows}, dupe_factor {self.dupe_factor}, short_seq_prob {self.short_seq_prob}: nothing of "
                "such rows is drawn, so all repeats would be the same and none is shorter; set dupe_factor to 1 and "
                "short_seq_prob to 0"
            )


AS_THE_ORIGINAL = CorpusConfig()


@runtime_checkable
class Divisible(Protocol):
    """Documents of which other machines can read a part by themselves."""

    def __iter__(self) -> Iterator[Document]: ...

    def parts(self) -> Sequence["Divisible"]:
        """The same documents in the same order, in as many parts as can be read apart."""
        ...


# ---- documents to token stores ---------------------------------------------------------------------------------------


def split_by_document(documents: Iterable, config: CorpusConfig, first: int = 0) -> Iterator[tuple[str, Document]]:
    """(split, document), as `config.valid_fraction` draws it from the number of the document, from `first` on."""
    for index, document in enumerate(documents, first):
        held_out = document_random(config.seed, "held out", 0, index).random() < config.valid_fraction
        yield VALID if held_out else TRAIN, as_document(document)


def tokenize_all(
    documents: Iterable[tuple[str, Document]],
    tokenizer: Path,
    stores: Path,
    dtype: np.dtype,
    config: CorpusConfig,
    run: InOrder,
    progress: Progress | None = None,
) -> dict[str, Counter]:
    """Documents to one token store per split.

    Args:
      documents: with their splits.
      tokenizer: where it is saved.
      stores: folder for the stores, one below it for each split.
      dtype: of the ids.
      config: of the language of the text, and who finds its words.
      run: hands chunks of documents to workers.
      progress: told of the bytes of text.

    Returns the counts of each split that has tokens.
    """
    counts = {split: Counter() for split in (TRAIN, VALID)}
    done = 0
    read = partial(tokenize, tokenizer, config.language, config.segmenter)
    with ExitStack() as files:
        writers = {split: files.enter_context(TokenStoreWriter(stores / split, dtype)) for split in counts}
        for split, found, chunk_counts in run(read, _chunks(documents)):
            writers[split].append(found)
            counts[split].update(chunk_counts)
            done += chunk_counts["text_bytes"]
            if progress:
                progress("reading", done, None)
    return {split: count for split, count in counts.items() if count["tokens"]}


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


class Part(NamedTuple):
    """Some documents that one machine reads, named and not carried."""

    number: int
    documents: Divisible
    first: int  # number of its first document in the whole corpus
    held_out: bool  # all of them


def tokenize_parts(
    documents: Divisible,
    valid: Divisible | None,
    tokenizer: Path,
    stores: Path,
    dtype: np.dtype,
    config: CorpusConfig,
    run: InOrder,
    progress: Progress | None = None,
) -> dict[str, Counter]:
    """`tokenize_all` where workers read the documents themselves: each part to stores of its own, which are joined."""
    parts = documents.parts()
    # Which documents are held out depends on their numbers in the whole corpus.
    sizes = list(run(_count, parts)) if config.valid_fraction else [0] * len(parts)
    firsts = np.cumsum([0, *sizes]).tolist()
    tasks = [Part(number, part, firsts[number], False) for number, part in enumerate(parts)]
    tasks += [Part(number, part, 0, True) for number, part in enumerate(valid.parts() if valid else (), len(tasks))]
    made = stores / "parts"
    made.mkdir()
    read = partial(tokenize_part, tokenizer, made, dtype.str, config)
    counts = {split: Counter() for split in (TRAIN, VALID)}
    with ExitStack() as files:
        writers = {split: files.enter_context(TokenStoreWriter(stores / split, dtype)) for split in counts}
        for task, found in zip(tasks, run(read, tasks), strict=True):
            for split, part_counts in found.items():
                writers[split].extend(TokenStore.open(_of_part(made, task) / split, dtype))
                counts[split].update(part_counts)
            shutil.rmtree(_of_part(made, task))
            if progress:
                progress("reading", sum(count["text_bytes"] for count in counts.values()), None)
    return {split: count for split, count in counts.items() if count["tokens"]}


def _count(documents: Iterable[Document]) -> int:
    return sum(1 for _ in documents)


def _of_part(folder: Path, part: Part) -> Path:
    return folder / f"{part.number:06d}"


def tokenize_part(tokenizer: Path, stores: Path, dtype: str, config: CorpusConfig, part: Part) -> dict[str, Counter]:
    """Reads and tokenizes a part into `stores/<number>`; the counts of its splits.

    It may be called again for the same part, also at the same time: the folder appears by one rename, and what another
    call has made is the same.
    """
    if part.held_out:
        documents = ((VALID, document) for document in part.documents)
    else:
        documents = split_by_document(part.documents, config, part.first)
    work = stores / uuid.uuid4().hex
    try:
        counts = tokenize_all(documents, tokenizer, work, np.dtype(dtype), config, map)
        try:
            os.rename(work, _of_part(stores, part))
        except OSError:
            if not _of_part(stores, part).is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


# ---- token stores to shards ------------------------------------------------------------------------------------------


def write_all(
    counts: Mapping[str, Counter],
    tokenizer: Tokenizer,
    stores: Path,
    output: Path,
    config: CorpusConfig,
    run: InOrder,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """The shards of each split and the file of its lengths, from its store.

    Args:
      counts: of each split; those of the instances are added.
      tokenizer: whose ids these are.
      stores, output: folders with the stores, and for the files.
      config: how instances are made.
      run: hands shards to workers.
      progress: told of the tokens.

    Returns of each split its `shards`, each with name, instances and bytes, and the name of its `lengths`.
    """
    dtype = token_dtype(tokenizer.vocab_size, flagged=config.segmenter != "none")
    tasks = []
    for split in counts:
        ranges = shard_ranges(TokenStore.open(stores / split, dtype), config.dupe_factor)
        for number, (first, last) in enumerate(ranges):
            path = output / f"{split}-{number:05d}-of-{len(ranges):05d}.array_record"
            tasks.append(Shard(split, stores / split, dtype.str, first, last, path))
    write = partial(
        write_shard,
        special_ids=(tokenizer.cls_id, tokenizer.sep_id),
        max_seq_length=config.max_seq_length,
        dupe_factor=config.dupe_factor,
        short_seq_prob=config.short_seq_prob,
        seed=config.seed,
        rows=config.rows,
        pairs=config.pairs,
    )
    written: dict[str, dict] = {split: {"lengths": f"{split}-lengths.bin", "shards": []} for split in counts}
    done, total = 0, sum(count["tokens"] for count in counts.values()) * config.dupe_factor
    if progress:
        progress("writing", done, total)
    for task, (tokens, shard_counts, lengths) in zip(tasks, run(write, tasks), strict=True):
        files = written[task.split]
        with (output / files["lengths"]).open("ab") as file:
            file.write(lengths)
        counts[task.split].update(shard_counts)
        size = task.path.stat().st_size
        files["shards"].append({"file": task.path.name, "instances": shard_counts["instances"], "bytes": size})
        done += tokens
        if progress:
            progress("writing", done, total)
    return written

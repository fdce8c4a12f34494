"""What the worker processes of a corpus build do: tokenize chunks of documents, write shards of instances."""

import functools
import os
import signal
import threading
import uuid
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from bert_jax.data.documents import Document
from bert_jax.data.instances import HEADER_BYTES, Pairs, RecordPacker, document_instances, document_random
from bert_jax.data.sentence_rows import RowPacker, Rows, sentence_rows
from bert_jax.data.store import Tokenized, TokenStore, token_dtype, with_flags
from bert_jax.data.stream import StreamPacker, stream_rows
from bert_jax.text import tokenizer as tokenizers
from bert_jax.text.segmentation import Segmenter, segmented
from bert_jax.text.sentences import split_sentences

SHARD_TOKENS = 1 << 22  # about 10 MB a shard, so that a small corpus keeps many cores busy
RELEASE_EVERY = 1024  # instances: some 80 MB of mapped pages at most; more often, it costs time
MAX_SHARDS = 256  # what `Shards` keeps open: every batch needs most of them; a larger corpus has larger ones


class WorkerDied(RuntimeError):
    """A worker process ended in the middle of its work."""


InOrder = Callable[[Callable, Iterable], Iterator]  # applies a function to tasks; results in the order of the tasks


def cores() -> int:
    """Cores this process may use; where the system does not tell (macOS), all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_pool(workers: int) -> AbstractContextManager[ProcessPoolExecutor | None]:
    """Freshly started processes, or None for one worker, which is this process."""
    if workers == 1:
        return nullcontext()
    # Spawned, not forked: the caller may run threads (jax does), which a fork would copy in the middle of their work.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops the workers in order
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A worker of a killed parent would wait for tasks for ever: it holds both ends of the task queue open itself.
    parent_process().join()
    os._exit(1)


def in_order(pool: ProcessPoolExecutor | None, most_under_way: int, function: Callable, tasks: Iterable) -> Iterator:
    """Results of `function` in the order of `tasks`; tasks are drawn only as results are taken, which bounds memory."""
    if pool is None:
        yield from map(function, tasks)
        return
    under_way = deque()
    try:
        for task in tasks:
            under_way.append(pool.submit(function, task))
            if len(under_way) == most_under_way:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        # Python 3.11.2 waits for ever for its thread that writes a task into a pipe which nobody is left to read
        # (python/cpython, issue 94777); later ones close the pipe themselves.
        pool._call_queue._reader.close()
        raise WorkerDied(
            "a worker process ended in the middle of its work: it was killed (for want of memory, say: then take fewer "
            "workers) or crashed. Nothing was kept; run it again"
        ) from error
    finally:
        for future in under_way:
            future.cancel()


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.load(folder)


def tokenize(
    folder: Path, language: str, segmenter: Segmenter, chunk: tuple[str, list[Document]]
) -> tuple[str, Tokenized, dict[str, int]]:
    """Splits documents into sentences and these into ids; sentences without tokens and empty documents are dropped.

    (create_pretraining_data.py:199-205.)

    Args:
      folder: of the saved tokenizer.
      language: of the sentence splitter.
      segmenter: finds words; the ids then have a flag each, whether they continue one.
      chunk: the split's name, passed through, and its documents.

    Returns:
      the split's name, the tokens, and counts for the card.
    """
    split, documents = chunk
    tokenizer = _loaded(folder)
    sentences: list[str] = []
    ends = []  # of each document in `sentences`
    for document in documents:
        for paragraph in document.paragraphs:
            sentences.extend([paragraph] if document.sentences else split_sentences(paragraph, language))
        ends.append(len(sentences))
    if segmenter == "none":
        ids = tokenizer.encode_batch(sentences)
    else:
        both = [segmented(tokenizer, sentence, segmenter) for sentence in sentences]
        ids, flags = [own for own, _ in both], np.concatenate([np.zeros(0, bool), *(own for _, own in both)])
    tokens = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    unknown = int(np.count_nonzero(tokens == tokenizer.unk_id))
    if segmenter != "none":
        tokens = with_flags(tokens, flags, token_dtype(tokenizer.vocab_size, flagged=True))
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    document_of = np.repeat(np.arange(len(documents)), np.diff(ends, prepend=0))
    per_document = np.bincount(document_of[lengths > 0], minlength=len(documents))
    found = Tokenized(tokens, lengths[lengths > 0], per_document[per_document > 0])
    return split, found, {
        "documents": len(found.document_lengths),
        "sentences": len(found.sentence_lengths),
        "tokens": len(tokens),
        "unknown": unknown,
        "single_sentence": int(np.count_nonzero(found.document_lengths == 1)),
        "text_bytes": sum(len(paragraph.encode()) for document in documents for paragraph in document.paragraphs),
    }  # fmt: skip


class Shard(NamedTuple):
    """One file to write: all repeats of a range of documents."""

    split: str
    store: Path  # folder of the split's tokens
    dtype: str
    first: int  # document
    last: int  # one after the last document
    path: Path


def shard_ranges(store: TokenStore, dupe_factor: int) -> list[tuple[int, int]]:
    """(first, one after the last) document of each shard, with about equally many tokens in each."""
    tokens = len(store.tokens)
    shards = min(MAX_SHARDS, -(-tokens * dupe_factor // SHARD_TOKENS))
    cuts = [tokens * shard // shards for shard in range(1, shards)]
    inner = np.searchsorted(store.documents, np.searchsorted(store.sentences, cuts))
    bounds = np.unique([0, *inner, len(store.documents) - 1]).tolist()
    return list(pairwise(bounds))


def write_shard(
    shard: Shard,
    special_ids: tuple[int, int],
    max_seq_length: int,
    dupe_factor: int,
    short_seq_prob: float,
    seed: int,
    rows: Rows,
    pairs: Pairs,
) -> tuple[int, Counter, bytes]:
    """Writes the instances of a shard's documents, repeat after repeat (create_pretraining_data.py:214-219).

    A row of sentences ends with the shard.

    Args:
      shard: what and where.
      special_ids: of [CLS] and [SEP].
      max_seq_length, dupe_factor, short_seq_prob, seed, rows, pairs: as in `CorpusConfig`.

    Returns:
      tokens of text worked through, counts for the card, and the tokens of each instance (little-endian uint16).
    """
    store = TokenStore.open(shard.store, np.dtype(shard.dtype))
    if rows == "pairs":
        pack = RecordPacker(store, *special_ids)
        instances = (
            instance
            for repeat in range(dupe_factor)
            for document in range(shard.first, shard.last)
            for instance in document_instances(
                store,
                document,
                document_random(seed, shard.split, repeat, document),
                max_seq_length=max_seq_length,
                short_seq_prob=short_seq_prob,
                pairs=pairs,
            )
        )
    elif rows == "stream":
        pack = StreamPacker(store, special_ids[1])
        instances = stream_rows(store, shard.first, shard.last, max_seq_length=max_seq_length)
    else:
        pack, across = RowPacker(store, *special_ids), rows == "full-sentences"
        instances = sentence_rows(
            store, shard.first, shard.last, max_seq_length=max_seq_length, across_documents=across
        )
    lengths = array("H")  # 16 bits, enough for every max_seq_length
    header, itemsize = HEADER_BYTES, store.tokens.dtype.itemsize
    drawn = ("random_next", "same_document", "short", "swapped") if rows == "pairs" else ()
    flags = dict.fromkeys(("truncated", *drawn), 0)
    # Groups of one record: each can be read alone. Written in one thread, the bytes are the same every time.
    # It gets its name when it is whole: it may be written more than once, where a machine fails or is slow.
    partial = shard.store / f"{shard.path.name}.{uuid.uuid4().hex}"
    writer = ArrayRecordWriter(str(partial), "group_size:1")
    for instance in instances:
        record = pack(instance)
        writer.write(record)
        lengths.append((len(record) - header) // itemsize)
        for name in flags:
            flags[name] += getattr(instance, name)
        if len(lengths) % RELEASE_EVERY == 0:
            store.release()
    writer.close()
    partial.replace(shard.path)
    sentences = store.documents[[shard.first, shard.last]]
    tokens = int(np.subtract(*store.sentences[sentences[::-1]]))
    counts = Counter(instances=len(lengths), **flags, length=sum(lengths))
    return tokens * dupe_factor, counts, np.asarray(lengths, "<u2").tobytes()

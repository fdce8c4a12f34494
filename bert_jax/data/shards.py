"""The records of a split by number, out of its ArrayRecord shards, of which few are open at a time."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from bert_jax.data.storage import DamagedFile, LocalFolder, RemoteFolder

# An open shard is an open file, of which systems allow some 1,000; it holds 12 bytes a record in memory. Opening one of
# 40,000 records takes 2 ms, so a corpus with many more shards than this reads slowly in random order.
MOST_OPEN = 256


class Shards:
    """Record i of all shards, one after the other; picklable, and read from several threads.

    Args:
      folder: where they are.
      shards: of each its `file` and the `instances` in it; `bytes`, its size, where that was written down.
    """

    def __init__(self, folder: LocalFolder | RemoteFolder, shards: Sequence[Mapping[str, Any]]) -> None:
        self._folder, self._shards = folder, tuple(shards)
        self._ends = np.cumsum([shard["instances"] for shard in shards])
        self._prepare()

    def _prepare(self) -> None:
        self._readers: OrderedDict[int, ArrayRecordReader] = OrderedDict()  # the least recently used one first
        self._lock = threading.Lock()
        self._opening = [threading.Lock() for _ in range(64)]  # shard s: number s modulo 64

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name in ("_folder", "_shards", "_ends")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, index: int) -> str:
        """File and number in it of a record, for messages."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return f"{self._folder.name(self._shards[shard]['file'])}, record {index - self._start(shard)}"

    def read(self, indices: np.ndarray) -> tuple[list[bytes], dict[int, str]]:
        """Records, and why some could not be read: by their place in `indices`; b"" stands for them.

        Args:
          indices: integer [n], 0 to len - 1, in any order, repeats allowed.

        Raises FileNotFoundError for a shard that is missing, OSError for one that cannot be fetched.
        """
        # The package's ArrayRecordDataSource starts threads for every batch, which costs more than the reading: 3 times
        # slower for batches of 32, 1.4 times for 256 (24 shards). So its readers are used directly.
        of_shard = np.searchsorted(self._ends, indices, side="right")
        records = np.full(len(indices), b"", object)
        faults: dict[int, str] = {}
        needed = iter(np.unique(of_shard).tolist())
        while group := list(itertools.islice(needed, self._folder.at_once)):
            for shard, reader in zip(group, self._open_all(group), strict=True):
                rows = np.flatnonzero(of_shard == shard)
                if isinstance(reader, str):
                    faults |= dict.fromkeys(rows.tolist(), reader)
                else:
                    records[rows] = _read(reader, indices[rows] - self._start(shard), rows, faults)
        return records.tolist(), faults

    def _start(self, shard: int) -> int:
        return int(self._ends[shard - 1]) if shard else 0

    def _open_all(self, shards: list[int]) -> list[ArrayRecordReader | str]:
        if len(shards) == 1 or all(shard in self._readers for shard in shards):
            return list(map(self._reader, shards))
        with ThreadPoolExecutor(len(shards)) as pool:
            return list(pool.map(self._reader, shards))

    def _reader(self, shard: int) -> ArrayRecordReader | str:
        """An open shard, or what is wrong with it."""
        with self._opening[shard % len(self._opening)]:  # one thread fetches it, others wait for it
            with self._lock:
                if shard in self._readers:
                    self._readers.move_to_end(shard)
                    return self._readers[shard]
            reader = self._opened(shard)
            if not isinstance(reader, str):
                with self._lock:
                    self._readers[shard] = reader
                    while len(self._readers) > MOST_OPEN:  # closed when no thread reads from it any more
                        self._readers.popitem(last=False)
            return reader

    def _opened(self, shard: int) -> ArrayRecordReader | str:
        entry = self._shards[shard]
        while True:
            try:
                path = self._folder.file(entry["file"], entry.get("bytes"))
            except DamagedFile as error:
                return error.fault
            try:
                # Random access: no reading ahead, and a buffer of a few records instead of a megabyte a shard.
                options = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}
                reader = ArrayRecordReader(str(path), **options)
                records = reader.num_records()
            except Exception as error:  # of several kinds
                if not path.exists():  # another process made room in the cache
                    continue
                return f"the shard cannot be opened: {error}"
            if records == entry["instances"]:
                return reader
            if not records:  # what the reader says of a file whose end it does not understand
                return "the shard is cut off, or damaged at its end"
            return f"the shard holds {records} records, and {entry['instances']} were written"


def _read(reader: ArrayRecordReader, positions: np.ndarray, rows: np.ndarray, faults: dict[int, str]) -> list[bytes]:
    try:
        return reader.read(positions.tolist())
    except Exception as error:  # of several kinds, and none names a record: so read them one by one
        if len(positions) > 1:
            return [_read(reader, positions[i : i + 1], rows[i : i + 1], faults)[0] for i in range(len(positions))]
        faults[int(rows[0])] = str(error)
        return [b""]

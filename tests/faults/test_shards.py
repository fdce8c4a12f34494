"""Shards damaged in random places, read in a process of their own: ArrayRecord is C++, which could take it down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.text.wordpiece import WordPiece

ROOT = Path(__file__).parents[2]
WORDS = [f"w{i}" for i in range(50)]
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS])

DAMAGE = """
import json, random, sys, time, warnings
import numpy as np
from pathlib import Path
from bert_jax.data.corpus import Corpus

folder, tries = Path(sys.argv[1]), int(sys.argv[2])
shard = folder / "train-00000-of-00001.array_record"
whole = shard.read_bytes()
everything = np.arange(len(Corpus(folder)))
expected = Corpus(folder).read(everything)
card = json.loads((folder / "card.json").read_text())
del card["splits"]["train"]["shards"][0]["bytes"]  # which alone would find most of what is cut off
(folder / "card.json").write_text(json.dumps(card))
counts = dict.fromkeys(("right", "named", "replaced"), 0)
slowest = 0.0
for number in range(tries):
    draw, damaged = random.Random(number), bytearray(whole)
    place = draw.randrange(len(whole))
    kind = ("one byte", "many bytes", "cut off", "zeros")[number % 4]
    if kind == "cut off":
        del damaged[draw.choice([place, place // 65536 * 65536]):]
    elif kind == "zeros":
        damaged[place : place + 5000] = bytes(len(damaged[place : place + 5000]))
    else:
        for place in [place] if kind == "one byte" else draw.choices(range(len(whole)), k=draw.randrange(2, 200)):
            damaged[place] ^= draw.randrange(1, 256)
    shard.write_bytes(damaged)
    began = time.monotonic()
    try:
        found = Corpus(folder).read(everything)
        assert all((found[name] == expected[name]).all() for name in expected), f"try {number}, {kind}: wrong data"
        counts["right"] += 1
    except ValueError as error:
        assert f"{shard}, record " in str(error) and " is damaged: " in str(error), str(error)
        counts["named"] += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                corpus = Corpus(folder, skip_damaged=True)
                found = corpus.read(everything)
            instead = everything.copy()
            instead[list(corpus.replaced)] = list(corpus.replaced.values())
            assert (found["tokens"] == expected["tokens"][instead]).all(), f"try {number}, {kind}: wrong replacement"
            counts["replaced"] += 1
        except ValueError as error:
            assert "others that would be read" in str(error) or "no other one has its" in str(error), str(error)
    slowest = max(slowest, time.monotonic() - began)
print(*counts.values(), slowest)
"""


@pytest.mark.parametrize("tries", [60, pytest.param(4000, marks=pytest.mark.faults)])
def test_damage_anywhere_is_noticed(tmp_path, tries):
    """Flipped bytes, zeros, a cut: the data are right or the file and the record are named; never wrong data, a crash
    or a hang. With `skip_damaged` other whole instances are read instead, or it is said that there are none."""
    rng = np.random.default_rng(0)
    documents = [Document([" ".join(rng.choice(WORDS, 9)) for _ in range(12)], True) for _ in range(60)]
    build_corpus(documents, TOKENIZER, tmp_path / "corpus", CorpusConfig(48, 5), workers=1)
    right, named, replaced, slowest = child(DAMAGE, tmp_path / "corpus", tries, timeout=120 + tries)
    print(f"{tries} damaged shards: {right:.0f} read right, {named:.0f} errors, of which {replaced:.0f} replaced")
    assert right + named == tries and right > 0.05 * tries and named > 0.5 * tries and replaced > 0.2 * tries
    assert slowest < 10


READ = """
import sys
import numpy as np, psutil
from pathlib import Path
from bert_jax.data.corpus import Corpus

where, cache, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) or None
corpus = Corpus(where, cache=cache, cache_bytes=limit)
corpus.read(np.array([0]))
process = psutil.Process()
before, grown, most = process.memory_info().rss, 0, 0
order = np.random.default_rng(0).permutation(len(corpus))
for indices in np.array_split(order, len(order) // 8):
    assert corpus.read(indices)["lengths"].min() == corpus.max_length
    grown = max(grown, process.memory_info().rss - before)
    if limit:
        most = max(most, sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()))
print(grown, most)
"""


@pytest.mark.parametrize("remote", [False, pytest.param(True, marks=pytest.mark.faults)])
def test_memory_does_not_grow_with_the_corpus(tmp_path, remote):
    """A corpus of 300 MB in 100 shards, read in random order from the disk or through a cache of 60 MB: the process
    never holds a quarter of it."""
    size = write_large(tmp_path / "corpus", shards=100)
    where = f"file://{tmp_path}/corpus" if remote else tmp_path / "corpus"
    limit = size // 5 if remote else 0
    grown, cached = child(READ, where, tmp_path / "cache", limit, timeout=300)
    print(f"{size / 1e6:.0f} MB of shards: memory grew by {grown / 1e6:.0f} MB, {cached / 1e6:.0f} MB in the cache")
    assert size > 250e6 and grown < size / 4 and cached <= limit


def write_large(folder: Path, shards: int) -> int:
    """A corpus of long instances of random ids, which nothing compresses; returns its size in bytes."""
    length = 60_000
    tokenizer = WordPiece([*TOKENIZER.pieces, *(f"x{i}" for i in range(65_000))])
    text = [Document([" ".join(WORDS)] * 3, True) for _ in range(3)]
    build_corpus(text, tokenizer, folder, CorpusConfig(length, 1), workers=1)
    for path in folder.glob("train-*"):
        path.unlink()
    rng, entries = np.random.default_rng(0), []
    for number in range(shards):
        path = folder / f"train-{number:05d}-of-{shards:05d}.array_record"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for _ in range(25):
            ids = rng.integers(5, 65_000, length).astype("<u2")
            writer.write(np.array([0, 100], "<u2").tobytes() + ids.tobytes())
        writer.close()
        entries.append({"file": path.name, "instances": 25, "bytes": path.stat().st_size})
    np.full(25 * shards, length, "<u2").tofile(folder / "train-lengths.bin")
    card = json.loads((folder / "card.json").read_text())
    card["splits"]["train"]["shards"] = entries
    (folder / "card.json").write_text(json.dumps(card))
    return sum(entry["bytes"] for entry in entries)


def child(program: str, *arguments: object, timeout: float) -> list[float]:
    """The numbers that a program prints, which must end well."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)
    assert run.returncode == 0, run.stderr
    return [float(number) for number in run.stdout.split()]

"""Corpus builds whose workers are elsewhere, and workers that die."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from bert_jax.data import documents as documents_module
from bert_jax.data import stages, store, workers
from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import TextFiles
from bert_jax.text.wordpiece import WordPiece

WORDS = [f"w{i}" for i in range(50)]
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS])


def write_texts(folder: Path, files: int = 5, seed: int = 0) -> list[Path]:
    """Files of some documents each, one sentence a line."""
    rng = np.random.default_rng(seed)
    paths = [folder / f"{seed}-{i}.txt" for i in range(files)]
    for path in paths:
        documents = [[" ".join(rng.choice(WORDS, 9)) for _ in range(rng.integers(1, 9))] for _ in range(20)]
        path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def twice(work: Path):
    """Runs every task two times, as a system may that does not know whether the first attempt was lost."""

    def run(function, tasks):
        for task in list(tasks):
            function(task)
            yield function(task)

    return run


@pytest.mark.parametrize("held_out", ["none", "drawn", "files"])
@pytest.mark.parametrize("distribute", [lambda work: map, twice])
def test_workers_elsewhere_give_the_same_bytes(tmp_path, monkeypatch, held_out, distribute):
    """They read a part each, in any number of attempts; the parts joined are what one machine makes."""
    monkeypatch.setattr(workers, "SHARD_TOKENS", 2000)
    monkeypatch.setattr(store, "DOCUMENTS_AT_ONCE", 7)
    config = CorpusConfig(32, 2, valid_fraction=0.3 if held_out == "drawn" else 0.0)
    train = TextFiles(write_texts(tmp_path), "sentences")
    valid = TextFiles(write_texts(tmp_path, 2, seed=1), "sentences") if held_out == "files" else None
    build = functools.partial(build_corpus, train, TOKENIZER, config=config, valid=valid)
    build(output=tmp_path / "here", workers=1)
    monkeypatch.setattr(stages, "CHUNK_CHARACTERS", 500)
    build(output=tmp_path / "elsewhere", distribute=distribute)
    assert contents(tmp_path / "here") == contents(tmp_path / "elsewhere")
    assert not list(tmp_path.glob(".*"))


def test_parts_of_a_data_set_are_its_records(monkeypatch):
    """Each record is in one part, in order."""
    monkeypatch.setattr(documents_module, "PART_RECORDS", 4)
    source = documents_module.TfdsText("made/up")
    records = Records({"text": f"text {i}".encode()} for i in range(10))
    monkeypatch.setattr(documents_module.TfdsText, "_open", lambda self: (records, "text"))
    assert [part.records for part in source.parts()] == [(0, 4), (4, 8), (8, 10)]
    assert [document for part in source.parts() for document in part] == list(source)
    assert [document.paragraphs for document in source.parts()[2]] == [["text 8"], ["text 9"]]


class Records(list):
    """Records, read as TFDS has them read."""

    def __getitems__(self, indices: list[int]) -> list[dict]:
        return [self[i] for i in indices]


def test_documents_must_be_readable_elsewhere(tmp_path):
    """A list is only here."""
    with pytest.raises(ValueError, match="workers elsewhere cannot read a list: give TextFiles or TfdsText"):
        build_corpus(["w1 w2."], TOKENIZER, tmp_path / "c", distribute=lambda work: map)
    assert not os.listdir(tmp_path)


SLOW = """
import multiprocessing, sys, time
from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.text.tokenizer import load

def documents():
    for i in range(400):
        yield "w1 w2 w3. " * 20000

def report(stage, done, total):
    if stage == sys.argv[3]:
        print(*[process.pid for process in multiprocessing.active_children()], flush=True)

if __name__ == "__main__":
    config = CorpusConfig(dupe_factor=1 if sys.argv[3] == "reading" else 100)
    build_corpus(documents(), load(sys.argv[1]), sys.argv[2], config, workers=2, progress=report)
"""


@pytest.mark.parametrize("stage", ["reading", "writing"])
def test_killed_worker_ends_the_build(tmp_path, stage):
    """kill -9 of one of the workers, in either stage: an error that says so, within seconds, and nothing half-made is
    left behind."""
    TOKENIZER.save(tmp_path / "tokenizer")
    (tmp_path / "slow.py").write_text(SLOW.replace("range(400)", "range(400)" if stage == "reading" else "range(20)"))
    command = [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "tokenizer"), str(tmp_path / "corpus"), stage]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as build:
        children = [psutil.Process(int(pid)) for pid in build.stdout.readline().split()]
        assert len(children) == 2
        children[0].send_signal(signal.SIGKILL)
        began = time.monotonic()
        _, error = build.communicate(timeout=60)
    assert build.returncode == 1 and time.monotonic() - began < 30
    assert "WorkerDied: a worker process ended in the middle of its work: it was killed" in error
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert sorted(os.listdir(tmp_path)) == ["slow.py", "tokenizer"]

"""A corpus built by Apache Beam is the one that the local tool builds."""

import importlib.util
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_jax.data import workers
from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import TextFiles
from bert_jax.text.wordpiece import WordPiece
from tools import prepare_corpus

WORDS = [f"w{i}" for i in range(50)]
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS])
# Beam 2.77 wants older packages than the extra `dev` has, so it is tested in an environment of its own: bert_jax with
# the extra `beam`, and pytest.
THERE = importlib.util.find_spec("apache_beam") is not None
with_beam = pytest.mark.skipif(not THERE, reason="needs Apache Beam: pip install 'bert_jax[beam]', without [dev]")
pytestmark = pytest.mark.filterwarnings("default")  # Beam's own


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Text of several files, one sentence a line."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.txt" for i in range(4)]
    for path in paths:
        documents = [[" ".join(rng.choice(WORDS, 9)) for _ in range(rng.integers(1, 9))] for _ in range(20)]
        path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@with_beam
@pytest.mark.parametrize("valid_fraction", [0.0, 0.3])
@pytest.mark.parametrize("options", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]])
def test_the_same_bytes(files, tmp_path, monkeypatch, valid_fraction, options):
    """In the process of the pipeline, and in processes of its workers."""
    from bert_jax.data.beam import on_beam

    monkeypatch.setattr(workers, "SHARD_TOKENS", 2000)
    config, source = CorpusConfig(32, 2, valid_fraction=valid_fraction), TextFiles(files, "sentences")
    build_corpus(source, TOKENIZER, tmp_path / "here", config, workers=1)
    build_corpus(source, TOKENIZER, tmp_path / "beam", config, distribute=on_beam(options))
    assert contents(tmp_path / "here") == contents(tmp_path / "beam")
    assert len(list((tmp_path / "beam").glob("train-*.array_record"))) > 2 and not list(tmp_path.glob(".*"))


@with_beam
def test_bad_input_is_said_as_it_is_here(files, tmp_path):
    """The error of the worker, and not one of Beam's about it; no corpus is left."""
    from bert_jax.data.beam import on_beam

    files[2].write_bytes(b"fine.\n\nbad \xff byte.\n")
    with pytest.raises(ValueError, match=r"2\.txt, line 3: not UTF-8: byte 0xff at byte offset 11"):
        build_corpus(TextFiles(files, "sentences"), TOKENIZER, tmp_path / "c", distribute=on_beam())
    assert not (tmp_path / "c").exists() and not list(tmp_path.glob(".*"))


def run_tool(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare_corpus.py", *map(str, arguments)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return prepare_corpus.main()
    finally:
        signal.signal(signal.SIGTERM, handler)


@with_beam
def test_tool(files, tmp_path, monkeypatch):
    """`--beam` with options of the pipeline, without their dashes."""
    TOKENIZER.save(tmp_path / "tokenizer")
    common = [*files, "--tokenizer", tmp_path / "tokenizer", "--format", "sentences", "--max-seq-length", "32"]
    assert run_tool(monkeypatch, *common, "--output", tmp_path / "here", "--workers", "1") == 0
    assert run_tool(monkeypatch, *common, "--output", tmp_path / "beam", "--beam", "runner=DirectRunner") == 0
    assert contents(tmp_path / "here") == contents(tmp_path / "beam")


@pytest.mark.skipif(THERE, reason="Apache Beam is installed")
def test_tool_without_beam(files, tmp_path, monkeypatch, capsys):
    """It says how to get it."""
    TOKENIZER.save(tmp_path / "tokenizer")
    common = [*files, "--tokenizer", tmp_path / "tokenizer", "--output", tmp_path / "c"]
    assert run_tool(monkeypatch, *common, "--beam") == 2
    assert "--beam needs Apache Beam: pip install 'bert_jax[beam]'" in capsys.readouterr().err

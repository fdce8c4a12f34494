"""Trains a vocabulary from text: python tools/train_tokenizer.py FILES... --output DIR

Text files (`.gz` and `.xz` too) are read as tools/prepare_corpus.py reads them, so the vocabulary sees the words that
the corpus will hold. The same text gives the same bytes on any run and any number of cores.

    python tools/train_tokenizer.py wiki/*.xz --output runs/vocab --vocab-size 8192
    python tools/train_tokenizer.py wiki/*.xz --output runs/vocab --kind sentencepiece --cased
    python tools/train_tokenizer.py wiki/*.xz --output runs/vocab --kind bpe
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from bert_jax.data.documents import Format, TextFiles
from bert_jax.text import bpe, training
from bert_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Arguments:
    """Trains a WordPiece, SentencePiece or byte-level BPE vocabulary from text files."""

    files: tyro.conf.Positional[tuple[Path, ...]]  # text files, UTF-8; .gz and .xz are unpacked
    output: Path  # tokenizer folder to make; must not exist
    kind: Literal["wordpiece", "sentencepiece", "bpe", "gpt2", "xlm-roberta"] = "wordpiece"
    """BERT's, a unigram model with BERT's special tokens, RoBERTa's, GPT-2's, or a unigram model with XLM-R's ids"""
    vocab_size: int = 8192  # pieces, the special tokens included
    cased: bool = False  # keep capitals and accents; RoBERTa's, GPT-2's and XLM-R's always do
    coverage: float = training.COVERAGE  # share of the characters that the alphabet covers; rarer ones become [UNK]
    format: Format = "auto"  # how documents are marked, as in tools/prepare_corpus.py


def train(arguments: Arguments, console: Console) -> None:
    """Reads, trains, saves and prints a summary."""
    start = time.monotonic()
    if arguments.output.exists():
        raise FileExistsError(f"{arguments.output} exists and is not overwritten: choose another --output")
    files = TextFiles(arguments.files, arguments.format)
    lowercase = not arguments.cased
    with console.status("reading") as status:
        texts = _shown(files, status.update)
        if arguments.kind == "wordpiece":
            words = training.count_words(texts, lowercase)
            status.update(f"training on {len(words):,} distinct words")
            tokenizer = training.wordpiece_of_counts(words, arguments.vocab_size, lowercase, arguments.coverage)
        elif arguments.kind in ("bpe", "gpt2"):
            specials = bpe.SPECIALS if arguments.kind == "bpe" else (bpe.END_OF_TEXT,)
            words = training.count_spaced(texts)
            status.update(f"training on {len(words):,} distinct words")
            tokenizer = training.bpe_of_counts(words, arguments.vocab_size, specials=specials)
        else:
            words = training.count_spaced(texts)
            status.update(f"training on {len(words):,} distinct words, on one core for the same result anywhere")
            if arguments.kind == "xlm-roberta":
                tokenizer = training.fairseq_sentencepiece_of_counts(words, arguments.vocab_size, arguments.coverage)
            else:
                tokenizer = training.sentencepiece_of_counts(words, arguments.vocab_size, lowercase, arguments.coverage)
        status.update("measuring")
        usage = training.usage(tokenizer, words)
    _save(tokenizer, arguments.output)
    rows = {
        "pieces": f"{tokenizer.vocab_size:,}",
        "words in the text": f"{usage.words:,}, of which {usage.whole / usage.words:.2%} are one piece",
        "tokens in the text": f"{usage.tokens:,}, of which {usage.unknown / usage.tokens:.3%} are [UNK]",
        "fingerprint": tokenizer.fingerprint[:16],
        "seconds": f"{time.monotonic() - start:.1f}",
        "saved in": str(arguments.output),
    }
    table = Table(show_header=False, box=None)
    for row in rows.items():
        table.add_row(*row)
    console.print(table)


def _shown(files: TextFiles, show) -> Iterator[str]:
    """The paragraphs of the files, telling `show` now and then how much was read."""
    characters, shown = 0, time.monotonic()
    for document in files:
        for paragraph in document.paragraphs:
            characters += len(paragraph)
            yield paragraph
        if time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            show(f"reading: {characters / 1e6:,.1f} million characters")


def _save(tokenizer: Tokenizer, output: Path) -> None:
    """Saves beside the output folder, then renames: a run that is stopped leaves no half of a tokenizer."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{output.name}.", suffix=".partial", dir=output.parent))
    try:
        tokenizer.save(partial)
        partial.chmod(0o755)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main() -> int:
    """Runs the command line; exit code 2 means that the input was wrong, and says what to do."""
    arguments = tyro.cli(Arguments)
    try:
        train(arguments, Console())
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"train_tokenizer: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes a pre-training corpus from text: python tools/prepare_corpus.py FILES... --tokenizer DIR --output DIR

Text files (plain, one sentence a line, WikiExtractor; `.gz` and `.xz` too) or a TFDS data set (`tfds:wiki40b/en`)
become sentences, tokens, and BERT's sentence pairs in ArrayRecord shards, or rows full of sentences (`--rows`). All
cores work, memory stays bounded, and the same input and seed give the same bytes with any number of workers. It ends
with the corpus card.

    python tools/prepare_corpus.py wiki/*.xz --valid held_out.xz --tokenizer runs/vocab --output runs/corpus
"""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bert_jax.data.card import card_table
from bert_jax.data.corpus import TRAIN, VALID, CorpusConfig, build_corpus
from bert_jax.data.documents import Format, TextFiles, TfdsText
from bert_jax.data.tfds import PREFIX
from bert_jax.data.workers import InOrder, WorkerDied
from bert_jax.text import tokenizer as tokenizers


@dataclass(frozen=True)
class Arguments:
    """Makes a pre-training corpus: text -> sentences -> token ids -> BERT's sentence pairs in ArrayRecord shards."""

    files: tyro.conf.Positional[tuple[str, ...]]  # text files, or one TFDS name: tfds:wiki40b/en
    tokenizer: Path  # folder with vocab.txt (WordPiece) or spiece.model (SentencePiece)
    output: Path  # corpus folder to make; must not exist
    format: Format = "auto"
    """How documents are marked. plain: a file is a document, blank lines separate paragraphs. sentences: one sentence a
    line, a blank line ends a document. wikiextractor: <doc ...> to </doc>. auto: wikiextractor if the first line says
    so, else plain."""
    valid: tuple[str, ...] = ()  # held-out text files, or one TFDS name, instead of --valid-fraction
    config: Annotated[CorpusConfig, tyro.conf.arg(name="")] = field(default_factory=CorpusConfig)
    workers: int | None = None  # processes; all cores if not given; the result does not depend on it
    beam: tuple[str, ...] | None = None
    """hand the work to Apache Beam, with these options of its pipeline: --beam runner=FlinkRunner parallelism=64. All
    machines must see the files and the folder of --output under these paths. The result is the same"""
    tfds_split: str = "train"  # split of a TFDS data set
    tfds_valid_split: str = "validation"  # split of a TFDS data set given to --valid
    tfds_field: str | None = None  # feature that holds the text, if there are several
    tfds_dir: str | None = None  # where prepared TFDS data sets are


def source(names: tuple[str, ...], split: str, arguments: Arguments) -> TextFiles | TfdsText:
    """The documents of text files or of one TFDS data set."""
    if not any(name.startswith(PREFIX) for name in names):
        return TextFiles(names, arguments.format)
    if len(names) > 1:
        raise ValueError(f"{', '.join(names)}: give one TFDS data set, or text files")
    return TfdsText(names[0].removeprefix(PREFIX), split, arguments.tfds_field, arguments.tfds_dir)


def on_beam(options: tuple[str, ...]) -> Callable[[Path], InOrder]:
    """Beam with the options of its pipeline, given without their dashes."""
    try:
        from bert_jax.data import beam  # here, since it is an extra
    except ImportError as error:
        raise ValueError(f"--beam needs Apache Beam: pip install 'bert_jax[beam]' ({error})") from error
    return beam.on_beam([f"--{option}" for option in options])


def prepare(arguments: Arguments, console: Console) -> None:
    """Builds the corpus with a progress line and prints its card."""
    train = source(arguments.files, arguments.tfds_split, arguments)
    valid = source(arguments.valid, arguments.tfds_valid_split, arguments) if arguments.valid else None
    tokenizer = tokenizers.load(arguments.tokenizer)
    inputs = {TRAIN: train.describe()} | ({VALID: valid.describe()} if valid else {})
    distribute = None if arguments.beam is None else on_beam(arguments.beam)
    columns = SpinnerColumn(), TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        tasks = {"reading": bars.add_task("reading", total=None, rate="")}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                read = tasks["reading"]  # how much text there is was not known until its end
                bars.update(read, total=bars.tasks[read].completed)
                tasks[stage] = bars.add_task(stage, total=total, rate="")
            elapsed = max(bars.tasks[tasks[stage]].elapsed or 0, 0.1)
            unit = "MB" if stage == "reading" else "M tokens"
            rate = f"{done / 1e6:,.1f} {unit}, {done / 1e6 / elapsed:,.1f} {unit}/s"
            bars.update(tasks[stage], completed=done, rate=rate)

        card = build_corpus(
            train,
            tokenizer,
            arguments.output,
            arguments.config,
            valid=valid,
            inputs=inputs,
            workers=arguments.workers,
            distribute=distribute,
            progress=show,
        )
    console.print(card_table(card))
    console.print(f"corpus written to {arguments.output}")


def main() -> int:
    """Runs the command line; exit code 2 means that the input was wrong, 1 that a worker died; it says what to do."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are removed
    try:
        prepare(tyro.cli(Arguments, config=(tyro.conf.OmitArgPrefixes,)), Console())
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"prepare_corpus: {error}", file=sys.stderr)
        return 2
    except WorkerDied as error:
        print(f"prepare_corpus: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

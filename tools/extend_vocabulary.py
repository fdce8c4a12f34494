"""Gives a model pieces for the words of a domain: python tools/extend_vocabulary.py SOURCE FILES... --output DIR

Counts the words of the text, takes those that would save the most tokens, and writes SOURCE with a longer vocabulary;
each new embedding starts as the mean of those of the pieces that wrote the word before. Then prepare a corpus with the
new tokenizer and continue the pre-training:

    python tools/extend_vocabulary.py MODEL novels/*.xz --output runs/extended --pieces 1000
    python tools/prepare_corpus.py novels/*.xz --tokenizer runs/extended/tokenizer --output runs/novels
    python experiments/continue_pretraining.py --workdir runs/continued --init-from runs/extended \
        --corpus runs/novels
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from bert_jax.data.documents import Format, TextFiles
from bert_jax.pretrained import load
from bert_jax.text.training import count_words
from bert_jax.vocabulary import extend, frequent_words


@dataclass(frozen=True)
class Arguments:
    """Adds frequent words of a text to the vocabulary of a model."""

    source: tyro.conf.Positional[str]  # what `bert_jax.load` opens
    files: tyro.conf.Positional[tuple[Path, ...]]  # text files, UTF-8; .gz and .xz are unpacked
    output: Path  # folder to make; must not exist
    pieces: int = 1000  # at most so many new ones
    minimum: int = 5  # occurrences of a word
    format: Format = "auto"  # how documents are marked, as in tools/prepare_corpus.py


def run(arguments: Arguments, console: Console) -> None:
    """Counts, extends, saves, and says what it gained."""
    if arguments.output.exists():
        raise FileExistsError(f"{arguments.output} exists and is not overwritten: choose another --output")
    pretrained = load(arguments.source)
    if pretrained.tokenizer is None:
        raise ValueError(f"{arguments.source} has no tokenizer files: there is no vocabulary to extend")
    with console.status("counting words"):
        files = TextFiles(arguments.files, arguments.format)
        texts = (paragraph for document in files for paragraph in document.paragraphs)
        words = count_words(texts, pretrained.tokenizer.lowercase)
    new = frequent_words(words, pretrained.tokenizer, arguments.pieces, arguments.minimum)
    extended = extend(pretrained, new)
    extended.save(arguments.output, format="bert_jax")
    before, after = (_tokens(words, opened.tokenizer) for opened in (pretrained, extended))
    console.print(f"{len(new):,} new pieces, the first: {', '.join(new[:10])}")
    console.print(f"tokens in the text: {before:,} before, {after:,} after ({after / before - 1:+.1%})")
    console.print(f"saved in {arguments.output}")


def _tokens(words, tokenizer) -> int:
    return sum(len(ids) * n for ids, n in zip(tokenizer.encode_batch(list(words)), words.values(), strict=True))


def main() -> int:
    """Runs the command line; exit code 2 means that the input was wrong, and says what to do."""
    try:
        run(tyro.cli(Arguments), Console())
    except (ValueError, OSError) as error:
        print(f"extend_vocabulary: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

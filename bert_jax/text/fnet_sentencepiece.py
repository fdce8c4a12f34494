"""FNet's tokenizer: SentencePiece over text with one kind of quotes (`FNetTokenizer` of transformers 4).

transformers 5 opens no such model as it was: its FNetTokenizer loses the mark of the first word. What is saved names
its AlbertTokenizer, which with these options does the same, but for unknown characters, for which it has the id 1.
"""

import os
from pathlib import Path

from bert_jax.text.prepared_sentencepiece import PreparedSentencePiece, holds, read_options
from bert_jax.text.sentencepiece import CONFIG, MODEL

SPECIALS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")  # as ALBERT's, in other places


class FnetSentencePiece(PreparedSentencePiece):
    """FNet's tokenizer; capitals and accents are kept."""

    kind, tokenizer_class = "fnet sentencepiece", "AlbertTokenizer"

    def __init__(self, model: str | os.PathLike | bytes, lowercase: bool = False, keep_accents: bool = True):
        """Arguments and errors as of `PreparedSentencePiece`."""
        super().__init__(model, lowercase, keep_accents)


def is_saved_in(folder: Path) -> bool:
    """Whether a folder holds such a tokenizer, by the special tokens of its model (ALBERT's are to be asked for before:
    they are the first pieces)."""
    return holds(folder, SPECIALS)


def read(folder: Path) -> FnetSentencePiece:
    """Opens one that a folder holds. Raises ValueError for a damaged tokenizer_config.json."""
    options = read_options(folder / CONFIG, do_lower_case=False, keep_accents=True)
    return FnetSentencePiece(folder / MODEL, options["do_lower_case"], options["keep_accents"])

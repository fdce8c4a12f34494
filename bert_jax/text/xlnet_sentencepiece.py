"""XLNet's tokenizer: SentencePiece over text without accents (zihangdai/xlnet `prepro_utils.py`, `preprocess_text`).

Where this and the original differ, it is as `XLNetTokenizer` of transformers: a comma behind a digit is a piece of its
own only as far as the model's scores say so.
"""

import os
from pathlib import Path

from bert_jax.text.prepared_sentencepiece import PreparedSentencePiece, holds, read_options
from bert_jax.text.sentencepiece import CONFIG, MODEL, XLNET_SPECIALS


class XlnetSentencePiece(PreparedSentencePiece):
    """XLNet's tokenizer; capitals are kept. Its texts are framed as BERT's, `[CLS]` in front."""

    kind, tokenizer_class = "xlnet sentencepiece", "XLNetTokenizer"

    def __init__(self, model: str | os.PathLike | bytes, lowercase: bool = False, keep_accents: bool = False):
        """Arguments and errors as of `PreparedSentencePiece`."""
        super().__init__(model, lowercase, keep_accents)


def is_saved_in(folder: Path) -> bool:
    """Whether a folder holds such a tokenizer: the special tokens of its model are XLNet's."""
    return holds(folder, XLNET_SPECIALS)


def read(folder: Path) -> XlnetSentencePiece:
    """Opens one that a folder holds. Raises ValueError for a damaged tokenizer_config.json."""
    options = read_options(folder / CONFIG, do_lower_case=False, keep_accents=False)
    return XlnetSentencePiece(folder / MODEL, options["do_lower_case"], options["keep_accents"])

"""ALBERT's tokenizer: SentencePiece over lower-cased text without accents (google-research/albert `tokenization.py`).

The released model does neither itself. Where this and the original differ, it is as `AlbertTokenizer` of transformers:
a comma behind a digit is a piece of its own only as far as the model's scores say so, which those of their
`tokenizer.json` do.
"""

import base64
import json
import os
import string
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.text.prepared_sentencepiece import PreparedSentencePiece, read_options
from bert_jax.text.sentencepiece import CONFIG, MODEL, WORD_MARK, parse
from bert_jax.text.sentencepiece_file import CONTROL, UNKNOWN, model_of

LIBRARY = "tokenizer.json"
FIRST = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
TYPES = dict.fromkeys(FIRST, CONTROL) | {"<unk>": UNKNOWN}
# create_pretraining_data.py, `_is_start_piece_sp`: pieces of these characters alone can continue a word.
MARKS = frozenset('!"#$%&()*+,-./:;?@[\\]^_`{|}~')
INSIDE = MARKS | frozenset(string.ascii_letters)


class AlbertSentencePiece(PreparedSentencePiece):
    """ALBERT's tokenizer.

    `continues` is True for a piece of English letters and marks that neither starts with the word mark nor is a single
    mark: "▁hello" "," are two words, as is each piece of another script.
    """

    kind, tokenizer_class = "albert sentencepiece", "AlbertTokenizer"

    def __init__(self, model: str | os.PathLike | bytes, lowercase: bool = True, keep_accents: bool = False):
        """Arguments and errors as of `PreparedSentencePiece`."""
        super().__init__(model, lowercase, keep_accents)
        self.continues &= np.array([_is_inside(piece) for piece in self.pieces])


def _is_inside(piece: str) -> bool:
    return not piece.startswith((WORD_MARK, "<")) and piece not in MARKS and INSIDE.issuperset(piece)


def is_saved_in(folder: Path) -> bool:
    """Whether a folder holds such a tokenizer: the first pieces of its model, or of a `tokenizer.json` without files of
    another tokenizer, are ALBERT's."""
    if (folder / MODEL).exists():
        library = parse((folder / MODEL).read_bytes(), str(folder / MODEL))
        first = library.id_to_piece(list(range(min(len(FIRST), library.get_piece_size()))))
        return tuple(first) == FIRST
    if any((folder / other).exists() for other in ("vocab.txt", "vocab.json")) or not (folder / LIBRARY).exists():
        return False
    try:
        model = json.loads((folder / LIBRARY).read_text(encoding="utf-8"))["model"]
        return model["type"] == "Unigram" and tuple(piece for piece, _ in model["vocab"][: len(FIRST)]) == FIRST
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # for those to complain of who open it


def read(folder: Path) -> AlbertSentencePiece:
    """Opens one that a folder holds, from `tokenizer.json` if there is one, or else from its model.

    Raises ValueError for what is damaged, or does more to a text than ALBERT's.
    """
    file = folder / LIBRARY
    if not file.exists():
        config = read_options(folder / CONFIG, do_lower_case=True, keep_accents=False)
        return AlbertSentencePiece(folder / MODEL, config["do_lower_case"], config["keep_accents"])
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = [(str(piece), float(score)) for piece, score in content["model"]["vocab"]]
        steps = _steps(content["normalizer"], "normalizers")
        splitters = _steps(content["pre_tokenizer"], "pretokenizers")
        maps = [base64.b64decode(part["precompiled_charsmap"]) for part in steps if part["type"] == "Precompiled"]
        kinds = [part["type"] for part in (*steps, *splitters)]
        schemes = [part.get("prepend_scheme", "always") for part in splitters if part["type"] == "Metaspace"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, or of a tokenizer that is not ALBERT's: {error!r}") from error
    known = {"Replace", "NFKD", "StripAccents", "Lowercase", "Precompiled", "WhitespaceSplit", "Metaspace"}
    accents = {"NFKD", "StripAccents"} & set(kinds)
    if set(kinds) - known or schemes != ["always"] or len(maps) > 1 or len(accents) == 1:
        raise ValueError(f"{file} is of a tokenizer that is not ALBERT's: {', '.join(kinds)}, {schemes}, {len(maps)}")
    model = model_of(vocabulary, TYPES, maps[0] if maps else b"")
    return AlbertSentencePiece(model, "Lowercase" in kinds, not accents)


def _steps(step: Any, several: str) -> list[dict]:
    return step.get(several, [step]) if step else []

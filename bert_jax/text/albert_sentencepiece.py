"""ALBERT's tokenizer: SentencePiece over lower-cased text without accents (google-research/albert `tokenization.py`).

The released model does neither itself. Where this and the original differ, it is as `AlbertTokenizer` of transformers:
a comma behind a digit is a piece of its own only as far as the model's scores say so, which those of their
`tokenizer.json` do.
"""

import base64
import hashlib
import json
import os
import string
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.text.sentencepiece import WORD_MARK, SentencePiece, parse
from bert_jax.text.sentencepiece_file import CONTROL, UNKNOWN, model_of, normalizer_of
from bert_jax.text.tokenizer import Encoding, checked, write_new

MODEL, LIBRARY, CONFIG = "spiece.model", "tokenizer.json", "tokenizer_config.json"
FIRST = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
TYPES = dict.fromkeys(FIRST, CONTROL) | {"<unk>": UNKNOWN}
QUOTES = ("``", "''")  # each becomes "
# create_pretraining_data.py, `_is_start_piece_sp`: pieces of these characters alone can continue a word.
MARKS = frozenset('!"#$%&()*+,-./:;?@[\\]^_`{|}~')
INSIDE = MARKS | frozenset(string.ascii_letters)


class AlbertSentencePiece(SentencePiece):
    """ALBERT's tokenizer.

    `continues` is True for a piece of English letters and marks that neither starts with the word mark nor is a single
    mark: "▁hello" "," are two words, as is each piece of another script.
    """

    def __init__(self, model: str | os.PathLike | bytes, lowercase: bool = True, keep_accents: bool = False):
        """Open a model file, or the bytes of one; errors are those of `SentencePiece`.

        keep_accents: neither decompose characters (NFKD) nor drop the marks above and below letters.
        """
        super().__init__(model)
        self.lowercase, self.keep_accents = lowercase, keep_accents
        self._characters = _Characters(lowercase, keep_accents)
        self.continues &= np.array([_is_inside(piece) for piece in self.pieces])
        kind = {"kind": "albert sentencepiece", "lowercase": lowercase, "keep_accents": keep_accents}
        scores = self._library.get_score(list(range(self.vocab_size)))
        content = kind | {"normalizer": normalizer_of(self._content), "pieces": self.pieces, "scores": scores}
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def encode(self, text: str) -> Encoding:
        """The tokens of one text, without special tokens, all of segment 0. A token includes the space before it."""
        given, places = checked(text), []  # of each character that is read, where it begins and ends in the text
        at, read = 0, []
        while at < len(given):
            width = 2 if given.startswith(QUOTES, at) else 1
            found = '"' if width == 2 else self._characters[ord(given[at])]
            read.append(found)
            places += [(at, at + width)] * len(found)
            at += width
        found = self._library.encode("".join(read), return_type="offset_mapping")
        places.append((at, at))
        offsets = [(places[start][0], places[max(start, stop - 1)][start < stop]) for start, stop in found["offsets"]]
        ids = np.array(found["ids"], np.int32)
        return Encoding(ids, np.array(offsets, np.int32).reshape(-1, 2), np.zeros_like(ids))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text (int32 [n]), without special tokens or offsets: the fast path for large corpora."""
        return super().encode_batch([self._read(text) for text in texts])

    def save(self, folder: str | os.PathLike) -> None:
        """Write `spiece.model` and `tokenizer_config.json`, which AlbertTokenizer opens."""
        super().save(folder)
        config = {
            "tokenizer_class": "AlbertTokenizer", "do_lower_case": self.lowercase, "keep_accents": self.keep_accents
        }  # fmt: skip
        write_new(Path(folder) / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

    def _read(self, text: str) -> str:
        for quote in QUOTES:
            text = text.replace(quote, '"')
        return text.translate(self._characters)


class _Characters(dict):
    """What each character is read as, by its number; found when it is first asked for."""

    def __init__(self, lowercase: bool, keep_accents: bool):
        super().__init__()
        self._lowercase, self._keep_accents = lowercase, keep_accents

    def __missing__(self, code: int) -> str:
        found = chr(code)
        if not self._keep_accents:
            decomposed = unicodedata.normalize("NFKD", found)
            found = "".join(part for part in decomposed if unicodedata.category(part) != "Mn")
        if self._lowercase:
            found = "".join(map(str.lower, found))  # each alone: a sigma does not know that it ends a word
        self[code] = found
        return found


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
        config = _config(folder / CONFIG)
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


def _config(file: Path) -> dict[str, bool]:
    """The options of a tokenizer_config.json, or what AlbertTokenizer takes where it does not say."""
    options = {"do_lower_case": True, "keep_accents": False}
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds {type(config).__name__}, expected a JSON object")
    found = {name: config.get(name, default) for name, default in options.items()}
    for name, value in found.items():
        if not isinstance(value, bool):
            raise ValueError(f"{file}: {name} is {value!r}, expected true or false")
    return found

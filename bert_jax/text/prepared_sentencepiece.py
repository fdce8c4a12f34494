"""SentencePiece over a text whose characters were prepared: what ALBERT and XLNet do before their models see it.

Both released models leave that to the code around them (google-research/albert `tokenization.py`, zihangdai/xlnet
`prepro_utils.py`, `preprocess_text`).
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import normalizers

from bert_jax.text.sentencepiece import MODEL, SentencePiece, parse
from bert_jax.text.sentencepiece_file import normalizer_of
from bert_jax.text.tokenizer import Encoding, checked

QUOTES = ("``", "''")  # each becomes "


class PreparedSentencePiece(SentencePiece):
    """A SentencePiece model over text with one kind of quotes, and as asked in lower case and without accents.

    kind: of the subclass, for the fingerprint.
    tokenizer_class: that of transformers which does the same.
    """

    kind = tokenizer_class = ""

    def __init__(self, model: str | os.PathLike | bytes, lowercase: bool, keep_accents: bool):
        """Open a model file, or the bytes of one; errors are those of `SentencePiece`.

        keep_accents: neither decompose characters (NFKD) nor drop the marks above and below letters.
        """
        super().__init__(model)
        self.lowercase, self.keep_accents = lowercase, keep_accents
        self._characters = _Characters(lowercase, keep_accents)
        kind = {"kind": self.kind, "lowercase": lowercase, "keep_accents": keep_accents}
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
        """Write `spiece.model` and `tokenizer_config.json`, which their class opens."""
        kind = {"tokenizer_class": self.tokenizer_class}
        self._write(folder, kind | {"do_lower_case": self.lowercase, "keep_accents": self.keep_accents})

    def _read(self, text: str) -> str:
        for quote in QUOTES:
            text = text.replace(quote, '"')
        return text.translate(self._characters)


class _Characters(dict):
    """What each character is read as, by its number; found when it is first asked for."""

    def __init__(self, lowercase: bool, keep_accents: bool):
        super().__init__()
        steps = [] if keep_accents else [normalizers.NFKD(), normalizers.StripAccents()]
        # Each character alone: a sigma does not know that it ends a word.
        self._rules = normalizers.Sequence(steps + ([normalizers.Lowercase()] if lowercase else []))

    def __missing__(self, code: int) -> str:
        # Half of a pair is no character, and `checked` complains of it.
        found = self[code] = chr(code) if 0xD800 <= code < 0xE000 else self._rules.normalize_str(chr(code))
        return found


def holds(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder holds a SentencePiece model with all of these pieces."""
    file = folder / MODEL
    if not file.exists():
        return False
    library = parse(file.read_bytes(), str(file))
    return set(names) <= set(library.id_to_piece(list(range(library.get_piece_size()))))


def read_options(file: Path, **defaults: bool) -> dict[str, bool]:
    """Options of a tokenizer_config.json, as given where it does not say. Raises ValueError for what is damaged."""
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds {type(config).__name__}, expected a JSON object")
    found = {name: config.get(name, default) for name, default in defaults.items()}
    for name, value in found.items():
        if not isinstance(value, bool):
            raise ValueError(f"{file}: {name} is {value!r}, expected true or false")
    return found

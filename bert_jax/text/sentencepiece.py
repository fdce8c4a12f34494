"""SentencePiece (Kudo and Richardson 2018, arXiv:1808.06226) through the package `sentencepiece`."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from bert_jax.text.tokenizer import SPECIALS, Encoding, Tokenizer, checked, write_new

MODEL, CONFIG = "spiece.model", "tokenizer_config.json"
NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")  # in tokenizer_config.json
WORD_MARK = "▁"  # U+2581: stands for the space before a word
XLNET_SPECIALS = ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>")


class SentencePiece(Tokenizer):
    """A SentencePiece model of any kind (unigram, BPE) that has the five special tokens.

    `continues` is True for a normal piece that does not start with the word mark, punctuation included: "▁Hello" ","
    is one word of two pieces.
    """

    def __init__(self, model: str | os.PathLike | bytes):
        """Open a model file, or the bytes of one.

        The special tokens are found by name, BERT's ([PAD] ...) or XLNet's (<pad> ...).
        Raises FileNotFoundError for a missing file; ValueError for one that is empty, no SentencePiece model, or has
        no such tokens.
        """
        source = "the given bytes" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise FileNotFoundError(f"SentencePiece model {source} does not exist")
        self._content = model if isinstance(model, bytes) else Path(model).read_bytes()
        self._library = parse(self._content, source)
        library, ids = self._library, range(self._library.get_piece_size())
        pieces = library.id_to_piece(list(ids))
        super().__init__(
            pieces,
            _special_names(pieces, source),
            continues=np.array(
                [not (pieces[i].startswith(WORD_MARK) or library.is_control(i) or library.is_unknown(i)) for i in ids]
            ),
            fingerprint=hashlib.sha256(b"sentencepiece" + self._content).hexdigest(),
        )

    def encode(self, text: str) -> Encoding:
        """The tokens of one text, without special tokens, all of segment 0. A token includes the space before it."""
        found = self._library.encode(checked(text), return_type="offset_mapping")
        ids = np.array(found["ids"], np.int32)
        return Encoding(ids, np.array(found["offsets"], np.int32).reshape(-1, 2), np.zeros_like(ids))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text (int32 [n]), without special tokens or offsets: the fast path for large corpora."""
        # One thread, as in WordPiece: corpus preparation runs a process per core.
        found = self._library.encode([checked(text) for text in texts], return_type="numpy", num_threads=1)
        return [ids.copy() for ids in found]  # the library's arrays are read-only views

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids; an unknown piece shows as the model's own mark for it, " ⁇ " by default."""
        dropped = {self.pad_id, self.cls_id, self.sep_id, self.mask_id}
        self.tokens(ids)  # the check that every id is in the vocabulary
        return self._library.decode([i for i in np.asarray(ids).tolist() if i not in dropped])

    def save(self, folder: str | os.PathLike) -> None:
        """Write `spiece.model`, byte for byte the file that was opened, and a `tokenizer_config.json` with which
        `AutoTokenizer` of transformers reads as is read here, but for `` and '', of which it makes "."""
        config: dict[str, bool | str] = {
            "tokenizer_class": "AlbertTokenizer", "do_lower_case": False, "keep_accents": True
        }  # fmt: skip
        ids = self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id
        config |= {name: self.pieces[i] for name, i in zip(NAMES, ids, strict=True)}
        self._write(folder, config)

    def _write(self, folder: str | os.PathLike, config: dict[str, bool | str]) -> None:
        write_new(Path(folder) / MODEL, self._content)
        write_new(Path(folder) / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def parse(content: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    """The library's model of a file's content. Raises ValueError, naming the source, for what is none."""
    if not content:
        raise ValueError(f"SentencePiece model {source} is empty")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise ValueError(f"{source} is not a SentencePiece model: {error}") from error


def _special_names(pieces: Sequence[str], source: str) -> list[str]:
    known = set(pieces)
    spellings = list(zip(SPECIALS, XLNET_SPECIALS, strict=True))
    if missing := [" or ".join(both) for both in spellings if known.isdisjoint(both)]:
        raise ValueError(f"{source} ({len(pieces)} pieces) lacks the special tokens {', '.join(missing)}")
    return [bert if bert in known else xlnet for bert, xlnet in spellings]
